//! [`hyperfaas_fuzz::control_lines`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperfaas_fuzz::control_lines(data));
