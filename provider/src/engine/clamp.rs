//! What Docker accepts of the limits and reservations a deployment asks for.
//!
//! In: the bounds as asked for and the host's size. Out: the engine's numbers; `None` leaves a bound off.
//! Units: bytes, nano-CPUs, relative CPU shares (1024 is one processor's worth).
//! Always: a zero is "not set", a reservation never exceeds its limit, and nothing exceeds the host.
//! Source: Docker refuses less than 6 MiB, more processors than the host has, and a reservation above the limit; the
//! kernel refuses a quota under 1 ms in a period of 100 ms. The API echoes what was asked, not what is applied.

use hyperfaas_protocol::quantity::{Cpu, Memory};

use super::{Bounds, EngineFacts};

/// The least memory limit and reservation Docker takes.
const MEMORY_MIN: u64 = 6 << 20;
/// The least processor quota the kernel takes: 1 ms in each 100 ms.
const CPU_MIN: u64 = 10_000_000;
/// One processor in nano-CPUs.
const ONE_CPU: u64 = 1_000_000_000;
/// Shares that stand for one processor, and the range the kernel takes.
const SHARES: (u64, u64, u64) = (1024, 2, 262_144);

/// Bounds as they go to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clamped {
    /// Hard memory limit, bytes.
    pub memory: Option<i64>,
    /// What the kernel tries to leave under pressure, bytes.
    pub memory_reservation: Option<i64>,
    /// Hard processor limit, nano-CPUs.
    pub nano_cpus: Option<i64>,
    /// Weight when processors are short.
    pub cpu_shares: Option<i64>,
}

/// The nearest bounds to `limits` and `requests` that an engine on `host` accepts.
pub fn clamp(limits: &Bounds, requests: &Bounds, host: &EngineFacts) -> Clamped {
    let bytes = |asked: Option<Memory>, most: u64| {
        set(asked.map(|Memory(bytes)| bytes))
            .map(|bytes| bytes.max(MEMORY_MIN).min(most.max(MEMORY_MIN)))
    };
    let memory = bytes(limits.memory, host.memory.0);
    let reservation = bytes(requests.memory, memory.unwrap_or(host.memory.0));
    let nanos = |asked: Option<Cpu>| {
        set(asked.map(|Cpu(nanos)| nanos))
            .map(|nanos| nanos.max(CPU_MIN).min(host.cpu.0.max(CPU_MIN)))
    };
    let (per_cpu, least, most) = SHARES;
    let shares = nanos(requests.cpu)
        .map(|nanos| (nanos.saturating_mul(per_cpu) / ONE_CPU).clamp(least, most));
    Clamped {
        memory: memory.map(signed),
        memory_reservation: reservation.map(signed),
        nano_cpus: nanos(limits.cpu).map(signed),
        cpu_shares: shares.map(signed),
    }
}

/// `asked`, unless it is the zero that means "not set".
fn set(asked: Option<u64>) -> Option<u64> {
    asked.filter(|amount| *amount > 0)
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn host() -> EngineFacts {
        EngineFacts {
            version: "20.10.24".into(),
            api_version: "1.41".into(),
            cpu: Cpu(2 * ONE_CPU),
            memory: Memory(1024 * MIB),
        }
    }

    fn memory(limit: Option<u64>, request: Option<u64>) -> (Option<i64>, Option<i64>) {
        let limits = Bounds { memory: limit.map(Memory), cpu: None };
        let requests = Bounds { memory: request.map(Memory), cpu: None };
        let clamped = clamp(&limits, &requests, &host());
        (clamped.memory, clamped.memory_reservation)
    }

    fn cpu(limit: Option<u64>, request: Option<u64>) -> (Option<i64>, Option<i64>) {
        let limits = Bounds { memory: None, cpu: limit.map(Cpu) };
        let requests = Bounds { memory: None, cpu: request.map(Cpu) };
        let clamped = clamp(&limits, &requests, &host());
        (clamped.nano_cpus, clamped.cpu_shares)
    }

    #[test]
    fn memory_stays_between_the_engines_minimum_and_the_host() {
        let mib = |n: i64| Some(n << 20);
        for (limit, request, expected) in [
            (None, None, (None, None)),
            (Some(0), Some(0), (None, None)),
            (Some(5 * MIB), None, (mib(6), None)),
            (Some(1), Some(1), (mib(6), mib(6))),
            (Some(128 * MIB), Some(64 * MIB), (mib(128), mib(64))),
            (Some(64 * MIB), Some(128 * MIB), (mib(64), mib(64))),
            (Some(9999 * MIB), Some(8888 * MIB), (mib(1024), mib(1024))),
            (Some(u64::MAX), None, (mib(1024), None)),
            (None, Some(9999 * MIB), (None, mib(1024))),
            (None, Some(5 * MIB), (None, mib(6))),
        ] {
            assert_eq!(memory(limit, request), expected, "{limit:?} {request:?}");
        }
    }

    #[test]
    fn processors_stay_between_the_kernels_minimum_and_the_host() {
        for (limit, request, expected) in [
            (None, None, (None, None)),
            (Some(0), Some(0), (None, None)),
            (Some(100_000_000), Some(100_000_000), (Some(100_000_000), Some(102))),
            (Some(1), Some(1), (Some(10_000_000), Some(10))),
            (Some(64 * ONE_CPU), Some(64 * ONE_CPU), (Some(2_000_000_000), Some(2048))),
            (Some(u64::MAX), Some(u64::MAX), (Some(2_000_000_000), Some(2048))),
            (Some(ONE_CPU), None, (Some(1_000_000_000), None)),
        ] {
            assert_eq!(cpu(limit, request), expected, "{limit:?} {request:?}");
        }
    }
}
