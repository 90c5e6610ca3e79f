//! A zygote: an interpreter that has loaded what its script imports, and waits with the script itself until it is told to go on.
//!
//! In: the words of a command. Out: words that start the same interpreter with `hold.py` before the script, or why that cannot be.
//! Always: only what the script imports from elsewhere runs before the word; the script then sees the same arguments, paths and
//! main module as without. It is not forked: who loads is who serves, in its own cage from the first instruction on, so that
//! nothing of it, no seed and no lock, is anybody else's.
//! Touches: nothing. `owner` starts it and says the word on its stdin.
//! Source: zygotes of SOCK (Oakes et al., ATC '18), there forked for each function.

use hyperfaas_protocol::script::script_at;

/// Said on stdin once the script may run; one byte, of which nothing is left to be read by the script.
pub(super) const GO: &[u8] = b"\n";

/// Runs before the script, and then the script.
const HOLD: &str = include_str!("hold.py");
/// The words that start the command of `words` and have it wait.
///
/// # Errors
/// Why it cannot wait: the command is no Python 3, or what it runs is no script in a file.
pub(super) fn held(words: &[String]) -> Result<Vec<String>, &'static str> {
    let (before, script) = words.split_at(script_at(words)?);
    let hold = ["-c", HOLD].map(str::to_owned);
    Ok(before.iter().cloned().chain(hold).chain(script.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_script_is_run_behind_the_same_options_and_with_the_same_arguments() {
        for (command, before, after) in [
            ("python index.py", "python", "index.py"),
            ("python3 -W ignore -OB x/y.py a -b", "python3 -W ignore -OB", "x/y.py a -b"),
        ] {
            let expected: Vec<_> =
                [words(before), vec!["-c".into(), HOLD.into()], words(after)].concat();
            assert_eq!(held(&words(command)), Ok(expected), "{command}");
        }
    }

    /// Starts `script`, written into `folder` as `name`, as it is or held.
    fn start(folder: &Path, name: &str, is_held: bool) -> Child {
        let plain = words(&format!("python3 -B {name} first second"));
        let all = if is_held { held(&plain).unwrap() } else { plain };
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).current_dir(folder).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 is there")
    }

    fn output(child: Child) -> (String, String) {
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    }

    /// A script and modules beside it that tell when they run, and what they see.
    fn project() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("pack/__init__.py", "print('package runs')\n");
        write("pack/part.py", "import json.tool\nfrom . import other\nfrom .other import NAME\n");
        write(
            "pack/other.py",
            "import wave\nNAME = 'other'\ndef later():\n    import xmlrpc.client\n",
        );
        write("broken.py", "import no_such_module_anywhere\n");
        let script = "\
            import sys, os\n\
            from email import message\n\
            loaded = set(sys.modules)\n\
            from pack import part\n\
            try:\n    import broken\nexcept ImportError as error:\n    print(error)\n\
            print(sys.argv, sys.path[0] == os.getcwd(), __name__, os.path.basename(__file__))\n\
            print(sorted(name for name in globals() if not name.startswith('__')))\n\
            print(__spec__, __package__, __doc__, sys.modules['__main__'].sys is sys)\n\
            print(sys.orig_argv[-3:], len(sys.orig_argv))\n\
            print(part.NAME, 'xmlrpc.client' in sys.modules)\n\
            print({'json.tool', 'wave'} <= loaded, file=sys.stderr)\n";
        write("index.py", script);
        folder
    }

    #[test]
    fn a_script_that_has_waited_sees_what_one_that_has_not_sees() {
        let folder = project();
        let plain = start(folder.path(), "index.py", false);
        let mut waiting = start(folder.path(), "index.py", true);
        waiting.stdin.as_mut().unwrap().write_all(GO).unwrap();
        let ((plain, late), (held, early)) = (output(plain), output(waiting));
        assert_eq!(plain, held);
        assert!(plain.contains("package runs\n") && plain.contains("other False\n"), "{plain}");
        assert_eq!((late.as_str(), early.as_str()), ("False\n", "True\n"), "loaded ahead");
    }

    #[test]
    fn nothing_of_the_script_runs_before_the_word_and_nothing_at_all_without_it() {
        let folder = project();
        let mut waiting = start(folder.path(), "index.py", true);
        let mut said = String::new();
        drop(waiting.stdin.take());
        waiting.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), waiting.wait().unwrap().code()), ("", Some(1)));
    }

    #[test]
    fn what_cannot_be_read_or_fails_is_told_by_the_script_itself() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bad.py"), "def\n").unwrap();
        std::fs::write(folder.path().join("fails.py"), "import sys\nsys.exit(7)\n").unwrap();
        for (name, error, code) in
            [("bad.py", "SyntaxError", 1), ("none.py", "No such file", 1), ("fails.py", "", 7)]
        {
            let mut waiting = start(folder.path(), name, true);
            waiting.stdin.as_mut().unwrap().write_all(GO).unwrap();
            let output = waiting.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(error), "{name}: {said}");
            assert_eq!(output.status.code(), Some(code), "{name}");
        }
    }
}
