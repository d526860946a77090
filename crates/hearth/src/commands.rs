//! The commands, one file each.

pub(crate) mod apply;
pub(crate) mod console;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod db;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod gc;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod image;
mod image_jobs;
pub(crate) mod inspect;
pub(crate) mod kernel;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod mode;
pub(crate) mod monitor;
pub(crate) mod orphans;
pub(crate) mod pool;
pub(crate) mod ps;
pub(crate) mod recovery;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod template;
pub(crate) mod volume;
pub(crate) mod wait;

use std::pin::pin;

use futures::StreamExt;

use crate::exit_codes;
use crate::failure::{Failure, Outcome};

/// Requests under way at once when a command names several objects.
const PARALLEL: usize = 8;

/// Does the same for each object, several at once; results come in the order of the
/// objects. Goes on after failures, prints each, and ends with the worst one's code.
async fn each<T, F>(
    objects: &[String],
    act: impl Fn(String) -> F,
    mut done: impl FnMut(&str, T) -> Result<(), Failure>,
) -> Outcome
where
    F: Future<Output = Result<T, Failure>>,
{
    let work = objects.iter().map(|object| {
        let result = act(object.clone());
        async move { (object, result.await) }
    });
    let mut results = pin!(futures::stream::iter(work).buffered(PARALLEL));
    let mut code = exit_codes::OK;
    while let Some((object, result)) = results.next().await {
        match result {
            Ok(value) => done(object, value)?,
            Err(failure) => {
                failure.print();
                code = exit_codes::worse(code, failure.code);
            }
        }
    }
    Ok(code)
}
