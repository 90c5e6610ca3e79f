//! Stack files: OpenFaaS' `stack.yml`.
//!
//! In: a file. Out: its functions, selected and sorted by name. Keys that only concern building are ignored.
//! Source: faas-cli's schema (docs/compat.md). Scalars are taken as written, so `port: 8080` is the text `8080`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyperfaas_protocol::openfaas::StringMap;
use regex::Regex;
use serde::Deserialize;

use crate::args::StackArgs;
use crate::substitute::{SubstituteError, substitute};

/// Largest stack or environment file, in bytes; real ones have a few kilobytes.
const FILE_MAX: u64 = 4 << 20;

/// Why a stack file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StackError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// It is too large to be one.
    #[error("{0} is larger than {FILE_MAX} bytes")]
    TooLarge(PathBuf),
    /// A substitution in it is wrong.
    #[error("{path}: {error}")]
    Substitute {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: SubstituteError,
    },
    /// It is not YAML of the right shape.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        #[source]
        error: serde_norway::Error,
    },
    /// It is meant for another tool.
    #[error("{path}: provider.name must be openfaas, not \"{name}\"")]
    Provider {
        /// The file.
        path: PathBuf,
        /// The name given.
        name: String,
    },
    /// It has another version.
    #[error("{path}: version must be 1.0, not \"{version}\"")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version given.
        version: String,
    },
    /// The regular expression is none.
    #[error("--regex: {0}")]
    Regex(String),
    /// No function is left.
    #[error("{0}: no functions, or none that --filter or --regex matches")]
    Nothing(PathBuf),
}

/// The part of a stack file that matters for deploying.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stack {
    version: Option<String>,
    provider: Provider,
    /// By name.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) functions: BTreeMap<String, Function>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Provider {
    name: String,
    gateway: Option<String>,
}

/// One function of a stack file.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Function {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) lang: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) image: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) fprocess: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) environment: StringMap,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) environment_file: Vec<PathBuf>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) secrets: Vec<String>,
    pub(crate) constraints: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) labels: StringMap,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) annotations: StringMap,
    pub(crate) limits: Option<Resources>,
    pub(crate) requests: Option<Resources>,
    pub(crate) readonly_root_filesystem: bool,
}

/// `limits` or `requests` of a stack file.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) memory: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) cpu: String,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Stack {
    /// The gateway that the file names.
    pub(crate) fn gateway(&self) -> Option<&str> {
        self.provider.gateway.as_deref()
    }

    /// Reads `file`, substitutes, parses, and keeps the functions that `args` select.
    ///
    /// # Errors
    /// [`StackError`], always with the file's name.
    pub(crate) fn load(file: &Path, args: &StackArgs) -> Result<Self, StackError> {
        let path = file.to_owned();
        let mut text = read_text(file)?;
        if args.envsubst {
            text = substitute(&text, &|name| std::env::var(name).ok())
                .map_err(|error| StackError::Substitute { path: path.clone(), error })?;
        }
        let stack: Self = serde_norway::from_str(&text)
            .map_err(|error| StackError::Parse { path: path.clone(), error })?;
        stack.check(path)?.select(file, args)
    }

    fn check(self, path: PathBuf) -> Result<Self, StackError> {
        if !matches!(self.provider.name.as_str(), "openfaas" | "faas") {
            return Err(StackError::Provider { path, name: self.provider.name });
        }
        match self.version.as_deref() {
            None | Some("" | "1.0") => Ok(self),
            Some(version) => Err(StackError::Version { path, version: version.to_owned() }),
        }
    }

    fn select(mut self, path: &Path, args: &StackArgs) -> Result<Self, StackError> {
        if let Some(regex) = &args.regex {
            let regex = Regex::new(regex)
                .map_err(|error| StackError::Regex(last_line(&error.to_string())))?;
            self.functions.retain(|name, _| regex.is_match(name));
        }
        if let Some(filter) = &args.filter {
            self.functions.retain(|name, _| matches_wildcard(filter, name));
        }
        if self.functions.is_empty() { Err(StackError::Nothing(path.to_owned())) } else { Ok(self) }
    }
}

/// The part of a parse error that says what is wrong; the rest draws the expression.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Whether `text` matches `pattern`, in which `*` stands for any number of characters.
fn matches_wildcard(pattern: &str, text: &str) -> bool {
    let Some((first, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = tail.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The variables of an environment file: a YAML file with the key `environment`.
///
/// # Errors
/// [`StackError`] when it cannot be read or has another shape.
pub(crate) fn read_environment_file(file: &Path) -> Result<StringMap, StackError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct EnvironmentFile {
        #[serde(deserialize_with = "null_is_default")]
        environment: StringMap,
    }
    let text = read_text(file)?;
    let parsed: EnvironmentFile = serde_norway::from_str(&text)
        .map_err(|error| StackError::Parse { path: file.to_owned(), error })?;
    Ok(parsed.environment)
}

/// `fprocess` of `template/<lang>/template.yml`, if that file is there and has one.
///
/// # Errors
/// [`StackError`] when the file is there but cannot be read.
pub(crate) fn template_fprocess(root: &Path, lang: &str) -> Result<Option<String>, StackError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Template {
        fprocess: Option<String>,
    }
    let is_plain = !lang.is_empty() && !lang.contains(['/', '\\']) && !lang.starts_with('.');
    let file = root.join("template").join(lang).join("template.yml");
    if !is_plain || !file.exists() {
        return Ok(None);
    }
    let text = read_text(&file)?;
    let template: Template =
        serde_norway::from_str(&text).map_err(|error| StackError::Parse { path: file, error })?;
    Ok(template.fprocess.filter(|fprocess| !fprocess.is_empty()))
}

fn read_text(file: &Path) -> Result<String, StackError> {
    let fail = |error| StackError::Read { path: file.to_owned(), error };
    if std::fs::metadata(file).map_err(fail)?.len() > FILE_MAX {
        return Err(StackError::TooLarge(file.to_owned()));
    }
    std::fs::read_to_string(file).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, filter: Option<&str>, regex: Option<&str>) -> Result<Stack, StackError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stack.yml");
        std::fs::write(&file, text).unwrap();
        let args = StackArgs {
            file: None,
            filter: filter.map(str::to_owned),
            regex: regex.map(str::to_owned),
            envsubst: true,
        };
        Stack::load(&file, &args)
    }

    const HEAD: &str =
        "version: 1.0\nprovider:\n  name: openfaas\n  gateway: http://gw:1\nfunctions:\n";

    #[test]
    fn scalars_are_text_as_written_and_empty_keys_are_nothing() {
        let text = format!(
            "{HEAD}  f:\n    image: a/b\n    handler: ./f\n    lang:\n    environment:\n      port: 8080\n      debug: true\n      \
             ratio: 1.0\n      octal: 010\n      quoted: \"yes\"\n    labels:\n    limits:\n      cpu: 0.5\n      memory: 128Mi\n"
        );
        let stack = load(&text, None, None).unwrap();
        let function = &stack.functions["f"];
        let environment: Vec<_> =
            function.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            environment,
            ["debug=true", "octal=010", "port=8080", "quoted=yes", "ratio=1.0"]
        );
        assert!(
            function.labels.is_empty()
                && function.lang.is_empty()
                && function.constraints.is_none()
        );
        assert_eq!(function.limits.as_ref().unwrap().cpu, "0.5");
        assert_eq!(stack.gateway(), Some("http://gw:1"));
    }

    #[test]
    fn filters_select_by_name() {
        let text =
            format!("{HEAD}  one: {{image: a}}\n  two: {{image: a}}\n  three: {{image: a}}\n");
        let names = |filter, regex| {
            load(&text, filter, regex)
                .map(|stack| stack.functions.into_keys().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(None, None).unwrap(), "one three two");
        assert_eq!(names(Some("t*"), None).unwrap(), "three two");
        assert_eq!(names(Some("*e*e"), None).unwrap(), "three");
        assert_eq!(names(Some("one"), None).unwrap(), "one");
        assert_eq!(names(None, Some("^o|w")).unwrap(), "one two");
        assert!(matches!(names(Some("x*"), None), Err(StackError::Nothing(_))));
        let error = names(None, Some("(")).unwrap_err().to_string();
        assert!(error.starts_with("--regex: ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn unusable_files_are_refused_with_their_name() {
        for text in [
            "functions: [",
            "provider: {name: kubernetes}",
            "functions: {f: {image: a}}",
            "version: 2.0\nprovider: {name: openfaas}\n",
            "provider: {name: openfaas}\nfunctions:\n",
            "provider: {name: openfaas}\nfunctions: {f: {labels: [a]}}\n",
            "a: ${B",
        ] {
            let error = load(text, None, None).unwrap_err().to_string();
            assert!(error.contains("stack.yml") && !error.contains('\n'), "{error}");
        }
        let missing = read_environment_file(Path::new("/nowhere/env.yml")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read /nowhere/env.yml: "));
    }

    #[test]
    fn a_template_gives_the_process_when_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("template/python3");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("template.yml"),
            "language: python3\nfprocess: python index.py\n",
        )
        .unwrap();
        assert_eq!(
            template_fprocess(root.path(), "python3").unwrap().as_deref(),
            Some("python index.py")
        );
        for none in ["", "go", "../python3", "."] {
            assert_eq!(template_fprocess(root.path(), none).unwrap(), None, "{none}");
        }
    }
}
