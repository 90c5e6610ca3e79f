//! [`hyperfaas_fuzz::lane_frames`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hyperfaas_fuzz::lane_frames(data));
