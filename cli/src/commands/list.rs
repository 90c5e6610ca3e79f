//! `hyperfaas list`.

use crate::api::{FunctionView, Gateway};
use crate::args::ListArgs;
use crate::error::Error;
use crate::output::{say, table};

/// Prints the functions of a namespace.
pub(crate) async fn run(args: ListArgs) -> Result<(), Error> {
    let gateway = Gateway::open(&args.gateway, None, false)?;
    let functions = gateway.list(args.namespace.as_deref().unwrap_or_default()).await?;
    for line in lines(&functions, &args) {
        say(&line);
    }
    Ok(())
}

fn lines(functions: &[FunctionView], args: &ListArgs) -> Vec<String> {
    if args.quiet {
        return functions.iter().map(|function| function.name.clone()).collect();
    }
    let mut head = vec!["Function", "Invocations", "Replicas", "Ready"];
    if args.verbose {
        head.extend(["Namespace", "Image", "Created"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(functions.iter().map(|function| row(function, args.verbose)));
    table(&rows)
}

fn row(function: &FunctionView, is_verbose: bool) -> Vec<String> {
    let mut row = vec![
        function.name.clone(),
        format!("{:.0}", function.invocation_count),
        function.replicas.to_string(),
        function.available_replicas.to_string(),
    ];
    if is_verbose {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        row.extend([text(&function.namespace), function.image.clone(), text(&function.created_at)]);
    }
    row
}
