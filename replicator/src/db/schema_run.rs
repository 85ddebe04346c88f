//! stub
use crate::db::schema_change::SchemaChange;
use rusqlite::Connection;
#[derive(Debug, thiserror::Error)]
#[error("{statement}: {error}")]
pub struct Failure {
    pub statement: String,
    pub error: String,
}
pub fn run(db: &Connection, changes: &[SchemaChange]) -> Result<(), Failure> {
    for change in changes {
        let all = change
            .statements()
            .map_err(|e| Failure { statement: change.words(), error: e.to_string() })?;
        for statement in all {
            db.execute_batch(&statement)
                .map_err(|e| Failure { statement: statement.clone(), error: e.to_string() })?;
        }
    }
    Ok(())
}
