//! [`hyperfaas_fuzz::request_head`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperfaas_fuzz::request_head(data));
