//! The function's command: found, described and started as the originals do, failing in the same words.
//!
//! In: words, environment, seal. Out: a running [`Process`], or an [`ExecError`] that reads like Go's.
//! Source: Go's `exec.LookPath` and `exec.Command`: no shell, `PATH` is the container's, a match through the current
//! directory is refused.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::cgi::Variable;
use super::crew::Crew;
use crate::pid1::{Process, Reaper};
use crate::rooted::Root;
use crate::sys::{Launch, Seal, SealedCall};

/// What a worker executes.
#[derive(Debug)]
pub(crate) struct Program {
    /// The command and its arguments; the first may be empty, which fails when started.
    words: Vec<String>,
    /// The container's environment without our own variables.
    environment: Vec<Variable>,
    seal: Arc<SealedCall>,
    /// Whose processes these are; `None` for those that live as long as the container.
    crew: Option<Arc<Crew>>,
    /// Where a guest finds its programs; `None` is the container's own root.
    root: Option<Root>,
    /// Where the command was found last, so that not every request looks through all of `PATH`.
    found: Mutex<Option<PathBuf>>,
}

/// Why the command did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("exec: no command")]
    Empty,
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotFound(String),
    #[error("exec: \"{0}\": cannot run executable found relative to current directory")]
    Relative(String),
    #[error("exec: environment variable contains NUL")]
    Nul,
    #[error("exec: the worker has been released")]
    Released,
    #[error("its port cannot be moved, and another worker may have it: {0}")]
    Unmovable(String),
    #[error("fork/exec {path}: {cause}")]
    Failed { path: String, cause: String },
}

impl Program {
    pub(crate) fn new(words: Vec<String>, environment: Vec<Variable>, seal: Seal) -> Self {
        let (seal, found) = (Arc::new(seal.prepare()), Mutex::default());
        Self { words, environment, seal, crew: None, root: None, found }
    }

    /// The same, its processes being of `crew`, and found from `root`.
    pub(super) fn of(self, crew: Arc<Crew>, root: Option<Root>) -> Self {
        Self { crew: Some(crew), root, ..self }
    }

    /// The command and its arguments, for log lines.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Starts the command with `variables` added to the environment and `streams` as stdin, stdout and stderr; `snare` is
    /// where it hands over a bind trap.
    ///
    /// # Errors
    /// [`ExecError`]; nothing runs then.
    pub(crate) async fn start(
        &self,
        reaper: &Arc<Reaper>,
        variables: &[Variable],
        streams: [OwnedFd; 3],
        snare: Option<OwnedFd>,
    ) -> Result<Process, ExecError> {
        self.start_with(&self.words, reaper, variables, streams, snare).await
    }

    /// The same with other words after the command itself.
    ///
    /// # Errors
    /// As [`Program::start`].
    pub(super) async fn start_with(
        &self,
        words: &[String],
        reaper: &Arc<Reaper>,
        variables: &[Variable],
        streams: [OwnedFd; 3],
        snare: Option<OwnedFd>,
    ) -> Result<Process, ExecError> {
        let path = self.find()?;
        let nul = |_| ExecError::Nul;
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(nul)?;
        let arguments = words.iter().map(|word| CString::new(word.as_bytes()).map_err(nul));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let is_added = |name: &OsStr| variables.iter().any(|(added, _)| added == name);
        let kept = self.environment.iter().filter(|(name, _)| !is_added(name));
        let environment = kept.chain(variables).map(assignment).collect::<Result<Vec<_>, _>>()?;
        let _hold = match &self.crew {
            Some(crew) => Some(crew.admit().ok_or(ExecError::Released)?),
            None => None,
        };
        let launch = Launch { path: c_path, arguments, environment, streams, snare, _hold };
        reaper
            .spawn(launch, &self.seal)
            .await
            .map_err(|error| ExecError::failed(&path.to_string_lossy(), &error))
    }

    fn find(&self) -> Result<PathBuf, ExecError> {
        let name = self.words.first().map_or("", String::as_str);
        if name.is_empty() {
            return Err(ExecError::Empty);
        }
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        let mut last = self.found.lock().expect("no holder of this lock panics");
        if let Some(path) = last.take_if(|path| self.is_executable(path)) {
            return Ok(last.insert(path).clone());
        }
        Ok(last.insert(self.search(name)?).clone())
    }

    fn search(&self, name: &str) -> Result<PathBuf, ExecError> {
        let path = self
            .environment
            .iter()
            .find(|(key, _)| key == "PATH")
            .map(|(_, value)| value.as_os_str());
        for directory in path.unwrap_or_default().as_bytes().split(|b| *b == b':') {
            let directory = if directory.is_empty() { b"." } else { directory };
            let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
            if self.is_executable(&candidate) {
                let found_here = !candidate.is_absolute();
                return if found_here {
                    Err(ExecError::Relative(name.to_owned()))
                } else {
                    Ok(candidate)
                };
            }
        }
        Err(ExecError::NotFound(name.to_owned()))
    }

    fn is_executable(&self, path: &Path) -> bool {
        match &self.root {
            Some(root) => root.is_executable(path),
            None => is_executable(path),
        }
    }
}

/// `NAME=value` as the kernel takes it.
fn assignment((name, value): &Variable) -> Result<CString, ExecError> {
    let mut text = OsString::with_capacity(name.len() + value.len() + 2);
    text.push(name);
    text.push("=");
    text.push(value);
    CString::new(text.into_vec()).map_err(|_| ExecError::Nul)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

impl ExecError {
    /// A start that failed in the system, for the file `path`.
    pub(super) fn failed(path: &str, error: &io::Error) -> Self {
        Self::Failed { path: path.to_owned(), cause: go_cause(error) }
    }
}

/// The system's own words, in lower case and without Rust's number behind them.
fn go_cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str], path: Option<&str>) -> Program {
        let environment =
            path.map(|p| (OsString::from("PATH"), OsString::from(p))).into_iter().collect();
        Program::new(words.iter().map(|w| (*w).to_owned()).collect(), environment, Seal::default())
    }

    #[test]
    fn commands_are_found_as_go_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let tool = directory.path().join("tool");
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        let path = format!("/nowhere:{}", directory.path().display());
        let not_found = "exec: \"tool\": executable file not found in $PATH";
        assert_eq!(
            program(&["tool"], Some(&path)).find().unwrap_err().to_string(),
            not_found,
            "not executable"
        );
        std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
        let found = program(&["tool"], Some(&path));
        assert_eq!(found.find().unwrap(), tool);
        std::fs::remove_file(&tool).unwrap();
        assert_eq!(found.find().unwrap_err().to_string(), not_found, "it is looked for again");
        assert_eq!(program(&["./x"], None).find().unwrap(), PathBuf::from("./x"));
        assert_eq!(program(&[""], None).find().unwrap_err().to_string(), "exec: no command");
        assert_eq!(program(&["tool"], None).find().unwrap_err().to_string(), not_found);
    }

    #[test]
    fn failures_read_like_gos() {
        let failed = |number| ExecError::failed("/x", &io::Error::from_raw_os_error(number));
        let error = failed(2);
        assert_eq!(error.to_string(), "fork/exec /x: no such file or directory");
        let error = failed(7);
        assert_eq!(error.to_string(), "fork/exec /x: argument list too long");
        let error = failed(13);
        assert_eq!(error.to_string(), "fork/exec /x: permission denied");
    }
}
