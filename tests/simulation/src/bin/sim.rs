//! scratch
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap_or(0)).collect();
    let mut marks = harmonylite_simulation::coverage::Marks::default();
    let mut failed = 0;
    for seed in a[0]..a[0] + a[1] {
        let out = harmonylite_simulation::run_seed(seed, a[1] == 1);
        if a[1] == 1 {
            out.trace.iter().for_each(|l| println!("{l}"));
        }
        if let Some(f) = out.failure {
            failed += 1;
            let f: String = f.chars().take(300).collect();
            println!("seed {seed}: {f}");
        }
        marks.merge(&out.marks);
    }
    for (m, c) in marks.iter() {
        println!("{m}: {c}");
    }
    println!("failed {failed}");
}
