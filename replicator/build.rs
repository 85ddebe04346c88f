//! Puts a nats-server inside the program, if `HARMONYLITE_EMBED_NATS_SERVER` names one at build
//! time (`make build` does).
//!
//! Writes `inside.rs` into OUT_DIR, which `embedded/binary.rs` includes: a constant `INSIDE`, which
//! is `None` in a plain build.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "HARMONYLITE_EMBED_NATS_SERVER";
/// 19 packs the 18.8 MB of 2.15.1 into 5.9 MB; it is done once for a server and kept by the build.
const LEVEL: i32 = 19;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let out = std::env::var("OUT_DIR")?;
    let constant = match std::env::var(VARIABLE) {
        Ok(path) if !path.is_empty() => pack(Path::new(&path), Path::new(&out))
            .map_err(|e| format!("{VARIABLE}={path}: {e}"))?,
        _ => "const INSIDE: Option<Inside> = None;\n".to_owned(),
    };
    std::fs::write(Path::new(&out).join("inside.rs"), constant)?;
    Ok(())
}

fn pack(program: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", program.display());
    let content = std::fs::read(program)?;
    let digest = HEXLOWER.encode(&Sha256::digest(&content));
    let said = Command::new(program).arg("-v").output()?;
    let said = String::from_utf8(said.stdout)?;
    let version = said
        .trim()
        .strip_prefix("nats-server: v")
        .ok_or_else(|| format!("`-v` says {said:?}: not a nats-server"))?;
    std::fs::write(out.join("nats-server.zst"), zstd::bulk::compress(&content, LEVEL)?)?;
    Ok(format!(
        "const INSIDE: Option<Inside> = Some(Inside {{\n    compressed: \
        include_bytes!(concat!(env!(\"OUT_DIR\"), \"/nats-server.zst\")),\n    \
         bytes: {},\n    sha256: {digest:?},\n    version: {version:?},\n}});\n",
        content.len()
    ))
}
