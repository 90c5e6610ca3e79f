//! [`hyperfaas_fuzz::answer`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperfaas_fuzz::answer(data));
