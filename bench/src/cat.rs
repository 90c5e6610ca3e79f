//! `bench-cat`: the reference function of fork modes, standard input to standard output.
//!
//! A program of its own, as small as a function's program gets: what a large one costs to start, some 1 ms for `bench` itself, would
//! be most of every figure and the same for all watchdogs.

fn main() -> std::io::Result<()> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).map(drop)
}
