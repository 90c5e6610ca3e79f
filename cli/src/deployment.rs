//! A function of a stack file as the request that faas-cli would send.
//!
//! In: the function, the command line's additions, the files they name. Out: a [`FunctionDeployment`].
//! Source: docs/compat.md; the golden examples are faas-cli's own.

use std::path::Path;

use hyperfaas_protocol::openfaas::{FunctionDeployment, FunctionResources, StringMap};

use crate::args::DeployArgs;
use crate::error::Error;
use crate::stack::{Function, Resources, read_environment_file, template_fprocess};

/// What the command line adds to every function.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    env: StringMap,
    labels: StringMap,
    annotations: StringMap,
    secrets: Vec<String>,
    constraints: Vec<String>,
    namespace: Option<String>,
    readonly: bool,
    reads_templates: bool,
}

impl Additions {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// [`Error::Usage`] when one that must be `NAME=VALUE` is not.
    pub(crate) fn of(args: &DeployArgs) -> Result<Self, Error> {
        Ok(Self {
            env: pairs("--env", &args.env)?,
            labels: pairs("--label", &args.label)?,
            annotations: pairs("--annotation", &args.annotation)?,
            secrets: args.secret.clone(),
            constraints: args.constraint.clone(),
            namespace: args.namespace.clone().filter(|namespace| !namespace.is_empty()),
            readonly: args.readonly,
            reads_templates: args.read_template,
        })
    }
}

/// The request for `name` as `function` describes it; relative files are looked for in `root`.
///
/// # Errors
/// [`Error`] when the image is missing or a file cannot be used.
pub(crate) fn from_stack(
    name: &str,
    function: Function,
    additions: &Additions,
    root: &Path,
) -> Result<FunctionDeployment, Error> {
    if function.image.is_empty() {
        return Err(Error::Usage(format!("function {name} has no image")));
    }
    let mut env_process = function.fprocess;
    if env_process.is_empty()
        && additions.reads_templates
        && !function.lang.eq_ignore_ascii_case("dockerfile")
    {
        env_process = template_fprocess(root, &function.lang)?.unwrap_or_default();
    }
    let mut env_vars = function.environment;
    for file in &function.environment_file {
        env_vars.extend(read_environment_file(&root.join(file))?);
    }
    Ok(FunctionDeployment {
        service: name.to_owned(),
        image: tagged(function.image),
        namespace: additions.namespace.clone().unwrap_or(function.namespace),
        env_process,
        env_vars: merged(env_vars, &additions.env),
        constraints: function.constraints.unwrap_or_else(|| additions.constraints.clone()),
        secrets: united(&additions.secrets, function.secrets),
        labels: merged(function.labels, &additions.labels),
        annotations: merged(function.annotations, &additions.annotations),
        limits: resources(function.limits),
        requests: resources(function.requests),
        read_only_root_filesystem: function.readonly_root_filesystem || additions.readonly,
    })
}

/// The request for an image without a stack file; the image is taken as written.
pub(crate) fn from_image(
    name: &str,
    image: &str,
    fprocess: Option<&str>,
    additions: Additions,
) -> FunctionDeployment {
    FunctionDeployment {
        service: name.to_owned(),
        image: image.to_owned(),
        namespace: additions.namespace.unwrap_or_default(),
        env_process: fprocess.unwrap_or_default().to_owned(),
        env_vars: additions.env,
        constraints: additions.constraints,
        secrets: additions.secrets,
        labels: additions.labels,
        annotations: additions.annotations,
        limits: None,
        requests: None,
        read_only_root_filesystem: additions.readonly,
    }
}

/// `image` with `:latest` when its last part has neither tag nor digest.
fn tagged(image: String) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { image } else { format!("{image}:latest") }
}

fn merged(mut base: StringMap, over: &StringMap) -> StringMap {
    base.extend(over.iter().map(|(name, value)| (name.clone(), value.clone())));
    base
}

/// Both lists, the command line's first, each name once.
fn united(first: &[String], second: Vec<String>) -> Vec<String> {
    let mut all = first.to_vec();
    for name in second {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn resources(given: Option<Resources>) -> Option<FunctionResources> {
    let Resources { memory, cpu } = given?;
    let resources = FunctionResources { memory, cpu, ..FunctionResources::default() };
    (!resources.is_empty()).then_some(resources)
}

/// `NAME=VALUE` options as a map; as in faas-cli neither part may be empty.
fn pairs(option: &str, given: &[String]) -> Result<StringMap, Error> {
    let pair = |text: &String| {
        let (name, value) = text.trim().split_once('=')?;
        (!name.is_empty() && !value.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    let bad = |text: &String| Error::Usage(format!("{option} {text}: must be NAME=VALUE"));
    given.iter().map(|text| pair(text).ok_or_else(|| bad(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(yaml: &str, additions: &Additions, root: &Path) -> String {
        let function: Function = serde_norway::from_str(yaml).unwrap();
        serde_json::to_string(&from_stack("fn1", function, additions, root).unwrap()).unwrap()
    }

    /// Captured from faas-cli 0.18.12.
    const ALL_FIELDS: &str = r#"{"service":"fn1","image":"a/b:c","envProcess":"cat","envVars":{"e":"f"},"constraints":["x=y"],"secrets":["s1"],"labels":{"a":"b"},"annotations":{"c":"d"},"limits":{"memory":"128Mi","cpu":"100m"},"requests":{"cpu":"50m"},"readOnlyRootFilesystem":true}"#;

    #[test]
    fn a_full_function_is_sent_as_faas_cli_sends_it() {
        let yaml = "lang: dockerfile\nhandler: ./x\nimage: a/b:c\nfprocess: cat\nenvironment: {e: f}\nconstraints: [x=y]\n\
                    secrets: [s1]\nlabels: {a: b}\nannotations: {c: d}\nlimits: {memory: 128Mi, cpu: 100m}\n\
                    requests: {cpu: 50m}\nreadonly_root_filesystem: true\n";
        assert_eq!(json(yaml, &Additions::default(), Path::new(".")), ALL_FIELDS);
    }

    #[test]
    fn a_minimal_function_is_sent_as_faas_cli_sends_it() {
        let additions = Additions { namespace: Some("foo".into()), ..Additions::default() };
        let expected =
            r#"{"service":"fn1","image":"a/b:c","namespace":"foo","labels":{},"annotations":{}}"#;
        assert_eq!(
            json("image: a/b:c\nnamespace: bar\nlimits: {}", &additions, Path::new(".")),
            expected
        );
        let sent = from_image("fn1", "a/b:c", None, additions);
        assert_eq!(serde_json::to_string(&sent).unwrap(), expected);
    }

    #[test]
    fn untagged_images_get_the_tag_latest() {
        for (image, sent) in [
            ("a", "a:latest"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host:5000/a:1", "host:5000/a:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(tagged(image.to_owned()), sent);
        }
    }

    #[test]
    fn later_environments_win_and_secrets_are_united() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("one.yml"), "environment:\n  b: file1\n  c: file1\n")
            .unwrap();
        std::fs::write(root.path().join("two.yml"), "environment:\n  c: file2\n  d: file2\n")
            .unwrap();
        let additions = Additions {
            env: pairs("--env", &["d=flag=x".to_owned()]).unwrap(),
            labels: pairs("--label", &["l=flag".to_owned()]).unwrap(),
            secrets: vec!["s2".into(), "s1".into()],
            constraints: vec!["only-if-none".into()],
            ..Additions::default()
        };
        let yaml = "image: a:1\nenvironment: {a: yaml, b: yaml}\nenvironment_file: [one.yml, two.yml]\n\
                    secrets: [s1, s3]\nlabels: {l: yaml, m: yaml}\nconstraints: [mine]\n";
        let expected = r#"{"service":"fn1","image":"a:1","envVars":{"a":"yaml","b":"file1","c":"file2","d":"flag=x"},"constraints":["mine"],"secrets":["s2","s1","s3"],"labels":{"l":"flag","m":"yaml"},"annotations":{}}"#;
        assert_eq!(json(yaml, &additions, root.path()), expected);
    }

    #[test]
    fn the_template_says_what_runs_unless_the_stack_file_does() {
        let root = tempfile::tempdir().unwrap();
        for lang in ["go", "dockerfile"] {
            let folder = root.path().join("template").join(lang);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("template.yml"), "fprocess: ./handler\n").unwrap();
        }
        let reads = Additions { reads_templates: true, ..Additions::default() };
        let process = |yaml: &str, additions: &Additions| {
            let function: Function = serde_norway::from_str(yaml).unwrap();
            from_stack("f", function, additions, root.path()).unwrap().env_process
        };
        assert_eq!(process("{image: a, lang: go}", &reads), "./handler");
        assert_eq!(process("{image: a, lang: go, fprocess: mine}", &reads), "mine");
        assert_eq!(process("{image: a, lang: Dockerfile}", &reads), "");
        assert_eq!(process("{image: a, lang: missing}", &reads), "");
        assert_eq!(process("{image: a, lang: go}", &Additions::default()), "");
    }

    #[test]
    fn malformed_options_are_named() {
        for bad in ["a", "=b", "a="] {
            let error = pairs("--label", &[bad.to_owned()]).unwrap_err().to_string();
            assert_eq!(error, format!("--label {bad}: must be NAME=VALUE"));
        }
    }
}
