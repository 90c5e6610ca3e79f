//! Waiting until functions are ready, with something to look at meanwhile.
//!
//! In: functions and a time. Out: which of them are not ready by then.
//! On a terminal each function has a line that changes; elsewhere each gets a line when something changes.

use std::io::IsTerminal;
use std::time::Duration;

use futures_util::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::api::{ApiError, FunctionView, Gateway};
use crate::output::{complain, say};

/// First pause between two looks; doubled up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A function that is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Its namespace; empty is the default one.
    pub(crate) namespace: String,
}

/// Waits at most `limit` until all of `targets` can answer; how many cannot.
pub(crate) async fn until_ready(gateway: &Gateway, targets: &[Target], limit: Duration) -> usize {
    let width = targets.iter().map(|target| target.name.len()).max().unwrap_or(0);
    let display = Display::new(width);
    let deadline = Instant::now() + limit;
    let waits =
        targets.iter().map(|target| wait(gateway, target, deadline, display.line(&target.name)));
    let ready = join_all(waits).await;
    ready.iter().filter(|ready| !**ready).count()
}

async fn wait(gateway: &Gateway, target: &Target, deadline: Instant, mut line: Line) -> bool {
    let start = Instant::now();
    let mut pause = PAUSE;
    loop {
        let state = State::of(gateway.status(&target.name, &target.namespace).await);
        match state {
            State::Ready(text) => {
                line.end(&format!("{text} after {:.1} s", start.elapsed().as_secs_f64()));
                return true;
            }
            State::Hopeless(text) => {
                line.fail(&text);
                return false;
            }
            State::Waiting(text) if Instant::now() + pause > deadline => {
                line.fail(&format!(
                    "not ready after {:.0} s ({text})",
                    start.elapsed().as_secs_f64()
                ));
                return false;
            }
            State::Waiting(text) => line.show(&text),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What one look at a function says.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Ready(String),
    Waiting(String),
    /// Waiting longer cannot help.
    Hopeless(String),
}

impl State {
    fn of(look: Result<Option<FunctionView>, ApiError>) -> Self {
        match look {
            Ok(Some(function)) if function.available_replicas > 0 => Self::Ready("ready".into()),
            Ok(Some(function)) if function.replicas == 0 => Self::Ready("scaled to zero".into()),
            Ok(Some(function)) => {
                Self::Waiting(format!("starting, 0 of {} replicas ready", function.replicas))
            }
            Ok(None) => Self::Hopeless("there is no such function".into()),
            Err(error @ ApiError::Unauthorized) => Self::Hopeless(error.to_string()),
            Err(error) => Self::Waiting(error.to_string()),
        }
    }
}

/// Where progress is shown.
enum Display {
    Terminal { bars: MultiProgress, width: usize },
    Plain,
}

impl Display {
    fn new(width: usize) -> Self {
        if std::io::stderr().is_terminal() {
            Self::Terminal { bars: MultiProgress::new(), width }
        } else {
            Self::Plain
        }
    }

    fn line(&self, name: &str) -> Line {
        let Self::Terminal { bars, width } = self else {
            return Line { name: name.to_owned(), last: String::new(), bar: None };
        };
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix}  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{name:width$}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Line { name: name.to_owned(), last: String::new(), bar: Some(bar) }
    }
}

/// One function's progress.
struct Line {
    name: String,
    last: String,
    bar: Option<ProgressBar>,
}

impl Line {
    fn show(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if text != self.last => say(&format!("{}: {text}", self.name)),
            None => {}
        }
        text.clone_into(&mut self.last);
    }

    fn end(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.finish_with_message(text.to_owned()),
            None => say(&format!("{}: {text}", self.name)),
        }
    }

    fn fail(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.abandon_with_message(text.to_owned()),
            None => complain(&format!("{}: {text}", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_judged_by_what_can_answer_now() {
        let view = |replicas, available_replicas| {
            Ok(Some(FunctionView { replicas, available_replicas, ..FunctionView::default() }))
        };
        assert_eq!(State::of(view(2, 1)), State::Ready("ready".into()));
        assert_eq!(State::of(view(0, 0)), State::Ready("scaled to zero".into()));
        assert!(matches!(State::of(view(1, 0)), State::Waiting(_)));
        assert!(matches!(State::of(Ok(None)), State::Hopeless(_)));
        assert!(matches!(State::of(Err(ApiError::Unauthorized)), State::Hopeless(_)));
        assert!(matches!(State::of(Err(ApiError::Answer(String::new()))), State::Waiting(_)));
    }
}
