//! `hearth image status`, `cancel` and `retry`: the daemon's jobs that make images: pulls, imports, and images of
//! snapshots.

use clap::Args;

use hearth_types::image_job::{ImageJob, JobState, RetryJob};
use hearth_types::units::Bytes;

use super::each;
use super::image::print;
use crate::ages::{ago, span};
use crate::cli::Context;
use crate::docker_auth;
use crate::exit_codes;
use crate::failure::Outcome;
use crate::output::{BAD, DIM, GOOD};
use crate::progress;
use crate::table::{Cell, Table};

/// Shows the jobs that make images (pulls, imports, images of snapshots): those under way, and the last fifty that
/// have ended
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this one: a job's id or the end of it, or an image's name
    #[arg(value_name = "JOB|IMAGE")]
    job: Option<String>,
}

/// Stops jobs that make images: pulls, imports, images of snapshots
///
/// What was downloaded is kept for a day: `hearth image retry` goes on with it.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Ids or ends of them, or images' names
    #[arg(required = true, value_name = "JOB|IMAGE")]
    jobs: Vec<String>,
}

/// Tries a job again that was aborted or cancelled: a pull, an import, an image of a snapshot
///
/// It goes on from the state in which it ended, with what is on the disk.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// Leave it to the daemon, and print the job's id
    #[arg(short, long)]
    detach: bool,

    /// Its id or the end of it, or the image's name
    #[arg(value_name = "JOB|IMAGE")]
    job: String,
}

pub(super) async fn status(context: &Context, args: StatusArgs) -> Outcome {
    let jobs = match &args.job {
        Some(job) => vec![context.client.image_job(job).await?],
        None => context.client.image_jobs().await?.items,
    };
    let out = &context.out;
    if out.is_json() {
        match (&args.job, jobs.first()) {
            (Some(_), Some(job)) => out.json(job)?,
            _ => out.json(&jobs)?,
        }
        return Ok(exit_codes::OK);
    }
    if out.quiet {
        for job in &jobs {
            out.line(&job.id)?;
        }
        return Ok(exit_codes::OK);
    }
    let mut header = vec![
        "JOB", "IMAGE", "STATE", "PROGRESS", "TRIES", "BEGUN", "NOTE",
    ];
    if out.is_wide() {
        header.extend(["KIND", "TOOK", "LEFT"]);
    }
    let mut table = Table::new(&header);
    for job in &jobs {
        table.row(row(context, job));
    }
    out.table(&table)?;
    Ok(exit_codes::OK)
}

fn row(context: &Context, job: &ImageJob) -> Vec<Cell> {
    let out = &context.out;
    let style = match job.state {
        JobState::Ready => GOOD,
        JobState::Aborted => BAD,
        JobState::Cancelled => DIM,
        _ => anstyle::Style::new(),
    };
    let id = match out.is_wide() {
        true => job.id.as_str(),
        // The end of such an id is the part that differs.
        false => job
            .id
            .get(job.id.len().saturating_sub(12)..)
            .unwrap_or(&job.id),
    };
    let tries = job.attempts.values().max().copied().unwrap_or(1);
    let mut cells = vec![
        id.into(),
        (&job.name).into(),
        Cell::styled(job.state, style),
        how_far(job).into(),
        tries.into(),
        ago(job.created_at, out.now).into(),
        note(job).into(),
    ];
    if out.is_wide() {
        let took = span(job.created_at, job.ended_at.unwrap_or(out.now));
        let left = job.left.filter(|left| left.bytes + left.partial_bytes > 0);
        let left = left.map_or(String::new(), |left| {
            Bytes(left.bytes + left.partial_bytes).human()
        });
        cells.extend([job.kind.as_str().into(), took.into(), Cell::from(left)]);
    }
    cells
}

fn how_far(job: &ImageJob) -> String {
    if job.state == JobState::Ready || job.total == 0 {
        return String::new();
    }
    let (done, total) = (Bytes(job.done).human(), Bytes(job.total).human());
    format!("{done} / {total}")
}

/// What it waits for, or why it ended.
fn note(job: &ImageJob) -> String {
    let failure = job.failure.as_ref().map(|failure| {
        let cause = failure.problem.detail.as_str();
        match job.state {
            JobState::Aborted => format!("in {}: {cause}", failure.state),
            _ => format!("after: {cause}"),
        }
    });
    match (&job.waits_for, failure) {
        (Some(what), Some(failure)) => format!("waits for {what} {failure}"),
        (Some(what), None) => format!("waits for {what}"),
        (None, failure) => failure.unwrap_or_default(),
    }
}

pub(super) async fn cancel(context: &Context, args: CancelArgs) -> Outcome {
    let cancel = |job: String| async move { Ok(context.client.cancel_image_job(&job).await?) };
    each(&args.jobs, cancel, |name, job| match job.state {
        JobState::Cancelled => context.out.line(name),
        state => {
            context
                .out
                .note(format!("{name} had ended before: {state}"));
            Ok(())
        }
    })
    .await
}

pub(super) async fn retry(context: &Context, args: RetryArgs) -> Outcome {
    let job = context.client.image_job(&args.job).await?;
    // The daemon keeps no credentials; those of S3 are its own.
    let auth = match job.path.is_none() && !job.name.starts_with("s3://") {
        true => docker_auth::lookup(&job.name, &context.out),
        false => None,
    };
    let body = RetryJob {
        auth,
        detach: args.detach,
    };
    let stream = context.client.retry_image_job(&job.id, &body).await?;
    let product = progress::follow(&context.out, stream).await?;
    print(context, &job.name, &product)
}
