//! `harmonylite snapshot verify`.

use super::{failed, report, with_store};
use crate::cli::args::Global;
use crate::cli::show;
use crate::settings::{Settings, StoreSettings};
use anyhow::Result;
use harmonylite_snapshot::catalog::find;
use harmonylite_snapshot::verify::verify;
use serde_json::json;

/// Restores a snapshot into a scratch directory beside the database, and checks it.
pub(super) fn run(
    global: &Global,
    settings: &Settings,
    from: &StoreSettings,
    wanted: Option<&str>,
    json: bool,
) -> Result<()> {
    let dir = super::restore::directory_of(&settings.db_path);
    let what = "verifying a snapshot";
    let (place, id, verified) =
        with_store(global, settings, from, what, async |store, progress| {
            let found = find(store, wanted).await.map_err(failed)?;
            let verified = verify(store, &found, &dir, progress).await.map_err(failed)?;
            Ok((store.place(), found.id, verified))
        })?;
    let value = json!({
        "snapshot": id.as_str(),
        "place": place,
        "sound": true,
        "bytes": verified.bytes,
        "tables": verified.tables,
        "rows": verified.rows,
    });
    let text = format!(
        "snapshot {id} in {place} is sound: restored, {}, {} tables, {} rows, integrity_check \
        and digest right\n",
        show::bytes(verified.bytes),
        verified.tables,
        verified.rows,
    );
    report(json, &value, &text);
    Ok(())
}
