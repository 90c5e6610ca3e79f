//! The command line; names and meanings are faas-cli's wherever it has the same option.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use hyperfaas_protocol::duration::GoDuration;

/// Deploys and calls OpenFaaS functions.
#[derive(Debug, Parser)]
#[command(name = "hyperfaas", version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy the functions of a stack file, or one from an image, and wait until they are ready
    Deploy(DeployArgs),
    /// Call a function with standard input as the body, and print its answer
    Invoke(InvokeArgs),
    /// List functions
    List(ListArgs),
    /// Remove functions by name, or all of a stack file
    Remove(RemoveArgs),
    /// Wait until the gateway, or a function, is ready
    Ready(ReadyArgs),
}

/// How to reach the gateway, and as whom.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Gateway URL; else the stack file's, else $OPENFAAS_URL, else http://127.0.0.1:8080
    #[arg(short, long, value_name = "URL")]
    pub(crate) gateway: Option<String>,
    /// User name; without a password the login saved by faas-cli is used
    #[arg(short, long, env = "OPENFAAS_USERNAME", default_value = "admin")]
    pub(crate) username: String,
    /// File that holds the password
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password_file")]
    pub(crate) password_stdin: bool,
}

/// Which functions of which stack file.
#[derive(Debug, Args)]
pub(crate) struct StackArgs {
    /// Stack file
    #[arg(short = 'f', long = "yaml", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Only functions whose name matches this pattern, with * for anything
    #[arg(long, value_name = "WILDCARD", conflicts_with = "regex")]
    pub(crate) filter: Option<String>,
    /// Only functions whose name matches this regular expression
    #[arg(long)]
    pub(crate) regex: Option<String>,
    /// Replace ${VARIABLE} and ${VARIABLE:-default} in the stack file
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub(crate) envsubst: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
    /// Deploy this image, without a stack file
    #[arg(long, requires = "name", conflicts_with = "file")]
    pub(crate) image: Option<String>,
    /// Name of the function to deploy from --image
    #[arg(long, requires = "image")]
    pub(crate) name: Option<String>,
    /// Process that the watchdog runs, for --image
    #[arg(long, requires = "image")]
    pub(crate) fprocess: Option<String>,
    /// Namespace; wins over the stack file's
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Environment variable, wins over the stack file's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Label, wins over the stack file's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Annotation, wins over the stack file's
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Secret, in addition to the stack file's
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Vec<String>,
    /// Placement constraint, where the stack file has none
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) constraint: Vec<String>,
    /// Make the functions' file systems read-only
    #[arg(long)]
    pub(crate) readonly: bool,
    /// Update functions that exist; with =false they must be new
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub(crate) update: bool,
    /// Remove functions before they are created; needs --update=false
    #[arg(long)]
    pub(crate) replace: bool,
    /// Take fprocess from template/LANG/template.yml where the stack file has none
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub(crate) read_template: bool,
    /// Longest wait for each call to the gateway
    #[arg(long, default_value = "60s", value_parser = positive)]
    pub(crate) timeout: Duration,
    /// How long to wait until the functions are ready; 0 does not wait
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// The function
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// Namespace; part of the name after a dot also says it
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Method
    #[arg(short, long, default_value = "POST")]
    pub(crate) method: reqwest::Method,
    /// Content type of the body
    #[arg(long, default_value = "text/plain")]
    pub(crate) content_type: String,
    /// Header
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// Query parameter
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) query: Vec<String>,
    /// Send the credentials to the function
    #[arg(long)]
    pub(crate) auth: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Images and times too
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The functions
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
    /// Namespace; wins over the stack file's
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    /// A function; without one the gateway is waited for
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// Namespace of the function
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// How long to wait
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = positive)]
    pub(crate) wait: Duration,
}

/// A duration such as `60`, `90s` or `2m`; zero is allowed.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed =
        GoDuration::parse_setting(text).filter(|parsed| *parsed >= GoDuration::from_secs(0));
    let parsed = parsed.ok_or_else(|| "not a duration such as 60, 90s or 2m".to_owned())?;
    Ok(parsed.positive().unwrap_or(Duration::ZERO))
}

fn positive(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    if parsed.is_zero() { Err("must be longer than zero".into()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    fn deploy(options: &[&str]) -> Result<DeployArgs, clap::Error> {
        let words = ["hyperfaas", "deploy"].into_iter().chain(options.iter().copied());
        Arguments::try_parse_from(words).map(|arguments| match arguments.command {
            Command::Deploy(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn boolean_options_are_written_as_faas_cli_writes_them() {
        assert!(deploy(&["-f", "stack.yml"]).unwrap().update);
        assert!(!deploy(&["-f", "stack.yml", "--update=false"]).unwrap().update);
        assert!(deploy(&["-f", "stack.yml", "--update"]).unwrap().update);
        assert!(deploy(&["--image", "a/b"]).is_err());
        assert!(deploy(&["--filter", "a", "--regex", "b"]).is_err());
    }

    #[test]
    fn durations_have_units_or_mean_seconds() {
        assert_eq!(duration("90").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert!(duration("-1s").is_err() && duration("soon").is_err() && positive("0").is_err());
    }
}
