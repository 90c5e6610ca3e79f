//! `bench-cat` copies its input to its output, as every function of a fork mode could.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn everything_comes_out_as_it_went_in() {
    let cat = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-cat"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    // More than a pipe and its own buffer hold.
    let text = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]);
    let text = text.collect::<Vec<_>>();
    for length in [0, 1, 32_768, text.len()] {
        let mut child = cat();
        let (mut stdin, sent) = (child.stdin.take().unwrap(), text[..length].to_vec());
        let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let mut back = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        assert!(back == text[..length], "{length} bytes");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let folder = std::fs::File::open("/").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-cat"));
    assert_eq!(command.stdin(folder).status().unwrap().code(), Some(1));
}
