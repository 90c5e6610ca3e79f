//! Whether a file is a program that runs in any image: static, for this processor.
//!
//! In: a file's bytes. Out: its processor, or one line saying what is wrong. Touches nothing.
//! Source: the ELF-64 header and program headers (`man 5 elf`).

/// Why a file cannot serve as the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Something else than a 64-bit little-endian program.
    #[error("not a 64-bit Linux program")]
    NotAProgram,
    /// It would need a loader and libraries that images need not have.
    #[error("dynamically linked, a static program is needed")]
    Dynamic,
    /// Cut off.
    #[error("truncated")]
    Truncated,
    /// For a processor unknown here.
    #[error("built for an unknown processor (machine {0})")]
    UnknownProcessor(u16),
}

/// Program header type of the path of a dynamic loader.
const PT_INTERP: u32 = 3;

/// The processor a static program is for, in the engine's words.
///
/// # Errors
/// [`ElfError`] when `file` is no static program.
pub fn static_program(file: &[u8]) -> Result<&'static str, ElfError> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") || !matches!(half(file, 16), Ok(2 | 3)) {
        return Err(ElfError::NotAProgram);
    }
    let start = usize::try_from(double(file, 32)?).map_err(|_| ElfError::Truncated)?;
    let (size, count) = (usize::from(half(file, 54)?), usize::from(half(file, 56)?));
    for index in 0..count {
        let at = start.checked_add(index * size).ok_or(ElfError::Truncated)?;
        if word(file, at)? == PT_INTERP {
            return Err(ElfError::Dynamic);
        }
    }
    match half(file, 18)? {
        62 => Ok("x86_64"),
        183 => Ok("aarch64"),
        other => Err(ElfError::UnknownProcessor(other)),
    }
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    let slice = at.checked_add(N).and_then(|end| file.get(at..end));
    slice.and_then(|slice| slice.try_into().ok()).ok_or(ElfError::Truncated)
}

fn half(file: &[u8], at: usize) -> Result<u16, ElfError> {
    bytes(file, at).map(u16::from_le_bytes)
}

fn word(file: &[u8], at: usize) -> Result<u32, ElfError> {
    bytes(file, at).map(u32::from_le_bytes)
}

fn double(file: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one program header of type `kind`.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&2_u16.to_le_bytes());
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file
    }

    #[test]
    fn a_static_program_names_its_processor() {
        assert_eq!(static_program(&program(62, 1)), Ok("x86_64"));
        assert_eq!(static_program(&program(183, 1)), Ok("aarch64"));
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        assert_eq!(static_program(&program(62, PT_INTERP)), Err(ElfError::Dynamic));
        assert_eq!(static_program(&program(8, 1)), Err(ElfError::UnknownProcessor(8)));
        assert_eq!(static_program(b"#!/bin/sh\n"), Err(ElfError::NotAProgram));
        assert_eq!(static_program(b""), Err(ElfError::NotAProgram));
        for length in 0..program(62, 1).len() {
            let _ = static_program(&program(62, 1)[..length]).is_ok();
        }
        assert_eq!(static_program(&program(62, 1)[..66]), Err(ElfError::Truncated));
        let mut far = program(62, 1);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(static_program(&far), Err(ElfError::Truncated));
    }
}
