//! Which commands run a script in an interpreter that can wait before it: CPython 3 with a script in a file.
//!
//! In: the words of a command. Out: where the script stands among them, or why it cannot wait.
//! Source: the manual page of `python3`, its options as of 3.13.

/// Options that take no word after them and leave what is a script a script.
const FLAGS: &str = "bBdEIOPqRsSuv";
/// Those that take the rest of their word, or the next one.
const WITH_VALUE: [&str; 2] = ["-W", "-X"];

/// The index of the script in `words`; what is before it are the interpreter and its options.
///
/// # Errors
/// Why the command cannot wait, for people.
pub fn script_at(words: &[String]) -> Result<usize, &'static str> {
    let interpreter = words.first().ok_or("it has no command")?;
    if !is_python(interpreter) {
        return Err("its command is no Python interpreter");
    }
    let mut at = 1;
    while let Some(option) = words.get(at).filter(|word| word.starts_with('-')) {
        let letters = &option[1..];
        at += match WITH_VALUE.iter().find(|with| option.starts_with(**with)) {
            Some(with) if option == with => 2,
            Some(_) => 1,
            None if !letters.is_empty() && letters.chars().all(|one| FLAGS.contains(one)) => 1,
            None => return Err("its interpreter has an option that a script cannot wait with"),
        };
    }
    match words.get(at) {
        Some(script) if script.ends_with(".py") => Ok(at),
        _ => Err("it runs no script"),
    }
}

/// Whether a program is CPython 3, by its name.
fn is_python(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    name.strip_prefix("python").is_some_and(|version| {
        let is_number = version.chars().all(|c| c.is_ascii_digit() || c == '.');
        version.is_empty() || (version.starts_with('3') && is_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(command: &str) -> Result<usize, &'static str> {
        script_at(&command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn scripts_are_found_behind_options() {
        for (command, index) in [
            ("python index.py", 1),
            ("/usr/bin/python3.11 -u index.py -i", 2),
            ("python3 -W ignore -Xdev -OB x/y.py", 5),
        ] {
            assert_eq!(at(command), Ok(index), "{command}");
        }
    }

    #[test]
    fn whatever_is_no_script_of_python_3_cannot_wait() {
        for command in [
            "",
            "node index.js",
            "python2 index.py",
            "python3",
            "python3 -m flask",
            "python3 -i x.py",
            "python3 -c pass",
            "python3 - x.py",
            "python3 index.pyc",
            "python3 -W",
            "pythonic x.py",
            "python3 --check-hash-based-pycs always x.py",
            "gunicorn x.py",
        ] {
            assert!(at(command).is_err(), "{command}");
        }
    }
}
