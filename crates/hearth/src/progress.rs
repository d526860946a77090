//! Progress of pulls and imports: bars on a terminal, else plain lines; always on stderr.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::pin::pin;

use futures::{Stream, TryStreamExt};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use hearth_client::ClientError;
use hearth_types::api::Progress;
use hearth_types::image::{ImageRecord, KernelRecord};
use hearth_types::image_job::ImageJob;

use crate::exit_codes;
use crate::failure::Failure;
use crate::output::{self, Output};

/// What came out of it.
#[derive(Debug)]
pub(crate) enum Product {
    Image(Box<ImageRecord>),
    Kernel(Box<KernelRecord>),
    /// A job that goes on by itself.
    Job(Box<ImageJob>),
}

/// Shows the progress until its end.
pub(crate) async fn follow(
    out: &Output,
    stream: impl Stream<Item = Result<Progress, ClientError>>,
) -> Result<Product, Failure> {
    let mut stream = pin!(stream);
    let mut view = View::new(out);
    let mut last = None;
    while let Some(step) = stream.try_next().await? {
        last = None;
        match step {
            Progress::Job { job } => last = Some(job),
            Progress::Stage { message } => view.stage(&message),
            Progress::Item {
                id,
                state,
                done,
                total,
            } => view.item(&id, &state, done, total),
            Progress::Image { image } => return Ok(Product::Image(Box::new(image))),
            Progress::Kernel { kernel } => return Ok(Product::Kernel(Box::new(kernel))),
            Progress::Failed { problem } => return Err(problem.into()),
        }
    }
    // The answer about a detached job is the job alone.
    if let Some(job) = last.filter(|job| job.detached) {
        return Ok(Product::Job(Box::new(job)));
    }
    Err(Failure::new(
        exit_codes::UNREACHABLE,
        "The connection to hearthd ended before the work was done",
    )
    .hint("run the same command again: what was downloaded is kept"))
}

/// How progress is shown.
#[derive(Debug)]
enum View {
    Silent,
    /// The state that was printed last, by item.
    Lines(HashMap<String, String>),
    Bars(Bars),
}

impl View {
    fn new(out: &Output) -> Self {
        if out.quiet {
            return Self::Silent;
        }
        let all = MultiProgress::new();
        // Hidden without a terminal, and on one that cannot move its cursor.
        if std::io::stderr().is_terminal() && !all.is_hidden() {
            Self::Bars(Bars {
                all,
                bars: HashMap::new(),
            })
        } else {
            Self::Lines(HashMap::new())
        }
    }

    fn stage(&self, message: &str) {
        match self {
            Self::Silent => {}
            Self::Lines(_) => output::stderr(&clean(message)),
            // A bar that is gone is no reason to fail a pull.
            Self::Bars(bars) => drop(bars.all.println(clean(message))),
        }
    }

    fn item(&mut self, id: &str, state: &str, done: u64, total: Option<u64>) {
        match self {
            Self::Silent => {}
            Self::Lines(states) => {
                if states.get(id).is_none_or(|last| last != state) {
                    output::stderr(&clean(&format!("{id}: {state}")));
                    states.insert(id.to_owned(), state.to_owned());
                }
            }
            Self::Bars(bars) => bars.item(id, state, done, total),
        }
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    fn item(&mut self, id: &str, state: &str, done: u64, total: Option<u64>) {
        let bar = self.bars.entry(id.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(total.unwrap_or(0)));
            bar.set_style(style());
            bar.set_prefix(clean(id));
            bar
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(clean(state));
        if matches!(state, "done" | "cached") {
            bar.abandon();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:14} {msg:10} [{wide_bar:.cyan/dim}] {bytes:>10} / {total_bytes:10}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ")
}
