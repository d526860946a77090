//! `/v1/db`: the database and its backups.

use axum::Json;
use axum::extract::State;
use hearth_types::api::{DatabaseBackup, DatabaseView};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use jiff::Timestamp;

use super::Api;
use super::error::{ApiError, ApiResult};
use crate::backups::{self, BackupError};

/// Shows the database and its backups.
#[utoipa::path(get, path = "/v1/db", operation_id = "database", tag = "daemon",
    responses((status = 200, body = DatabaseView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(api): State<Api>) -> Json<DatabaseView> {
    let engine = &api.engine;
    let schema = engine.parts.store.schema_version();
    let database = engine.paths.data().join("hearth.db");
    Json(engine.backups.view(&database, schema))
}

/// Makes a backup of the database now, and looks through it.
#[utoipa::path(post, path = "/v1/db/backup", operation_id = "back_up_database", tag = "daemon",
    responses((status = 200, body = DatabaseBackup), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn back_up(State(api): State<Api>) -> ApiResult<Json<DatabaseBackup>> {
    let engine = &api.engine;
    let store = &engine.parts.store;
    match engine.backups.take(store, Timestamp::now()).await {
        Ok(made) => {
            engine.tell(backups::made(&made)).await;
            Ok(Json(made))
        }
        Err(error) => {
            engine.tell(backups::failed(&error)).await;
            Err(problem(&error))
        }
    }
}

fn problem(error: &BackupError) -> ApiError {
    let hint = if error.damaged() {
        "keep the files as they are; stop the daemon (VMs go on), then hearth db check, restore or rebuild"
    } else {
        "see whether the disk of the data folder is full or failing: df -h, dmesg"
    };
    ApiError::new(Code::Internal, chain(error).to_string()).hint(hint)
}
