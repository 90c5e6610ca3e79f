//! A bounded run of every target: seeds, and mutations of them that are the same in every run.

use super::*;

/// Mutations of each seed.
const ROUNDS: usize = 3000;

/// Numbers without end; always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % most.max(1)
    }
}

fn mutated(seeds: &[Vec<u8>], seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 if !bytes.is_empty() => bytes[at] = u8::try_from(dice.below(256)).unwrap_or(0),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), b"\r\n :;,/%.0{}\"\xff\0"[dice.below(15)]),
            4 => {
                let other = &seeds[dice.below(seeds.len())];
                bytes.extend_from_slice(&other[dice.below(other.len())..]);
            }
            _ => {
                let end = (at + dice.below(9)).min(bytes.len());
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), copy);
            }
        }
    }
    bytes
}

fn run(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        target(seed);
        for _ in 0..ROUNDS {
            target(&mutated(seeds, seed, &mut dice));
        }
    }
}

#[test]
fn frames_of_nonsense_break_nothing() {
    run(lane_frames, &seeds::lane_frames());
}

#[test]
fn lines_of_nonsense_break_nothing() {
    run(control_lines, &seeds::control_lines());
}

#[test]
fn requests_of_nonsense_pass_no_further_than_the_gate_lets_them() {
    run(request_head, &seeds::request_head());
}

#[test]
fn answers_of_nonsense_are_read_in_one_way_only() {
    run(answer, &seeds::answer());
}
