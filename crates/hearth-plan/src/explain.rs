//! Why the planner acts on one VM, or does not: every question that it asks, with the answer.

use hearth_types::api::PlanReason;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase, VmStatus};

use crate::bootstrap;
use crate::breaker;
use crate::index::word_is_new;
use crate::model::{DesiredVm, Plan, World};
use crate::order;

/// The questions in their order, each with its answer for this VM. `plan` is what was
/// planned for the whole world.
#[must_use]
pub fn explain(world: &World, plan: &Plan, vm: &DesiredVm) -> Vec<PlanReason> {
    let mut reasons = Vec::new();
    let mut say = |topic: &str, text: String| {
        reasons.push(PlanReason {
            topic: topic.to_owned(),
            text,
        });
    };
    let status = &vm.status;
    say("goal", goal(vm).to_owned());
    say("phase", phase(status));
    if word_is_new(vm) {
        say(
            "word",
            "the user's newest word is not taken up yet".to_owned(),
        );
    }
    if let Some(hold) = &status.recovery.hold {
        let why = hold
            .reason
            .as_deref()
            .map_or_else(String::new, |why| format!(" ({why})"));
        let since = hold.since;
        say(
            "hold",
            format!("held since {since:.0}{why}: nothing is done automatically"),
        );
    }
    say("policy", policy(vm));
    if let Some(text) = bootstrap::explain(world, vm) {
        say("bootstrap", text);
    }
    for text in order::explain(world, vm) {
        say("after", text);
    }
    if let Some(at) = status.next_start.filter(|at| *at > world.now) {
        say("back-off", format!("no automatic start before {at:.0}"));
    }
    let failures = status.recovery.failures.len();
    match &status.recovery.breaker {
        Some(open) if open.trial.is_none() => say("breaker", breaker::reason(open)),
        Some(open) => say(
            "breaker",
            format!("half open, one start on trial: {}", open.reason),
        ),
        None if failures > 0 => {
            let rules = breaker::rules(&world.policy, &vm.spec);
            let limit = rules.failures;
            let last = status.recovery.failures.last();
            let last = last.map_or("own", |failure| failure.cause.as_str());
            say(
                "breaker",
                format!(
                    "closed; {failures} failure(s) are remembered, {limit} within the window open it; the last one's cause: {last}"
                ),
            );
        }
        None => say("breaker", "closed".to_owned()),
    }
    if let Some(open) = &plan.host_breaker {
        let waits = open.waits_for(|id| breaker::host::name_in(world, id));
        let own = match open.trial {
            Some(trial) if trial == vm.id => "this is the one on trial",
            _ if status.vmm.is_some() => "it runs, and goes on",
            _ => "it is not started automatically until the breaker closes",
        };
        let text = format!("{}; {waits}; {own}", open.reason());
        say("host breaker", text);
    }
    let stance = &world.policy.stance;
    let why = stance
        .reason
        .as_deref()
        .map_or_else(String::new, |why| format!(": {why}"));
    say("mode", format!("{}{why}", stance.mode));
    for note in &plan.notes {
        if note.vm.as_ref().is_none_or(|(id, _)| *id == vm.id) {
            say("note", note.text.clone());
        }
    }
    for held in plan
        .held
        .iter()
        .filter(|held| held.planned.step.vm() == Some(vm.id))
    {
        let (kind, by) = (held.planned.step.kind(), &held.by);
        say(
            "held",
            format!(
                "{kind} would be due ({}); {by} holds it",
                held.planned.reason
            ),
        );
    }
    for planned in plan
        .steps
        .iter()
        .filter(|planned| planned.step.vm() == Some(vm.id))
    {
        say(
            "step",
            format!("{}: {}", planned.step.kind(), planned.reason),
        );
    }
    reasons
}

const fn goal(vm: &DesiredVm) -> &'static str {
    match vm.goal {
        Goal::Running => "the user wants it to run",
        Goal::Paused => "the user wants it to run with its vCPUs stopped",
        Goal::Stopped => "the user wants it stopped",
        Goal::Absent => "the user wants it gone",
    }
}

fn phase(status: &VmStatus) -> String {
    let word = status.phase.as_str();
    match (&status.vmm, &status.reason) {
        (Some(vmm), None) => format!("{word}, its VMM is pid {}", vmm.pid),
        (Some(vmm), Some(reason)) => format!("{word}, its VMM is pid {}: {reason}", vmm.pid),
        (None, Some(reason)) => format!("{word}: {reason}"),
        (None, None) => word.to_owned(),
    }
}

fn policy(vm: &DesiredVm) -> String {
    let policy = vm.spec.restart;
    let ended = matches!(vm.status.phase, Phase::Exited | Phase::Failed);
    let failures = vm.status.failures;
    match policy {
        _ if ended && vm.status.vmm.is_none() => {
            format!("{policy}: it was asked when the VM ended, and said no")
        }
        RestartPolicy::OnFailure(Some(most)) => {
            format!("{policy}: {failures} of {most} failures in a row")
        }
        _ => format!("{policy}; {failures} failure(s) in a row"),
    }
}
