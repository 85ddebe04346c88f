//! The same seed always gives the same trace, byte for byte. All other tests here depend on this.

use harmonylite_simulation::run_seed;

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in 0..30 {
        let (first, second) = (run_seed(seed, true), run_seed(seed, true));
        for (i, (a, b)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(a, b, "seed {seed}, line {i}");
        }
        assert_eq!(first, second, "seed {seed}");
        assert!(first.trace.len() > 50, "seed {seed} lives");
    }
}
