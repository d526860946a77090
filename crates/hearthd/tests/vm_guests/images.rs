//! An image of a registry: pulled by the daemon with the person's own login, and run as it says.

use std::collections::BTreeMap;
use std::process::Output;

use hearth_types::process::ProcessExit;
use hearth_types::status::Phase;

use crate::harness::{Host, Registry, Vm, eventually, our_program, spec, words};

/// Says how it was started, and ends as it is told.
const STORY: &str = "#!/bin/sh
echo \"story: args=$* wish=$WISH user=$(id -un):$(id -gn) folder=$(pwd)\"
case $1 in
  code) exit $2 ;;
  signal) kill -$2 $$ ;;
esac
exec sleep 100000
";
/// What the image says of itself.
const SETTINGS: [&str; 12] = [
    "--config.entrypoint",
    "/bin/story",
    "--config.cmd",
    "code",
    "--config.cmd",
    "9",
    "--config.env",
    "WISH=granted",
    "--config.user",
    "worker",
    "--config.workingdir",
    "/home/worker",
];

/// `hearth image pull` with this folder as DOCKER_CONFIG.
fn pull(host: &Host, config: &str, reference: &str) -> Output {
    let mut command = host.netns.command(our_program("hearth", "hearth").as_str());
    command
        .env("HEARTH_HOST", format!("unix://{}", host.socket()))
        .env("DOCKER_CONFIG", config)
        .args(["image", "pull", reference]);
    command.output().unwrap()
}

/// Its line on the console.
async fn told(vm: &Vm) -> String {
    eventually("the entrypoint's line on the console", || async {
        let console = vm.console().await;
        let line = console.lines().find_map(|line| line.split_once("story: "));
        line.map(|(_, told)| told.trim().to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_of_a_pulled_image_runs_as_the_image_says() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.set("LOG", "debug");
    host.start_daemon().await;
    let Some(registry) = Registry::start(&host).await else {
        return;
    };
    let story = registry.push(&host, "story", &[("bin/story", STORY)], &SETTINGS);
    logins(&host, &story);

    // All of it from the image.
    let mut as_it_is = spec("as-it-is");
    (as_it_is.image, as_it_is.command) = (story.clone(), None);
    let vm = host.ask_for(as_it_is).await;
    let result = vm.ended().await;
    assert_eq!(result.exit_code, Some(9), "{result:?}");
    let expected = "args=code 9 wish=granted user=worker:worker folder=/home/worker";
    assert_eq!(told(&vm).await, expected);
    let seen = vm.look().await;
    assert_eq!(seen.phase, Phase::Failed);
    let end = seen.last_end.unwrap();
    assert_eq!(end.reason, "entrypoint exited with status 9");
    assert_eq!(end.guest.unwrap().exit, Some(ProcessExit::Code(9)));
    vm.remove().await;

    // The command, the environment and the folder are the person's, the rest the image's.
    let mut changed = spec("changed");
    changed.image = story;
    changed.command = Some(words(&["signal", "15"]));
    changed.env = BTreeMap::from([("WISH".to_owned(), "refused".to_owned())]);
    changed.workdir = Some("/tmp".to_owned());
    let vm = host.ask_for(changed).await;
    let result = vm.ended().await;
    assert_eq!(result.exit_code, Some(128 + 15), "{result:?}");
    let expected = "args=signal 15 wish=refused user=worker:worker folder=/tmp";
    assert_eq!(told(&vm).await, expected);
    let end = vm.look().await.last_end.unwrap();
    assert_eq!(end.reason, "entrypoint was ended by signal 15");
    assert_eq!(end.guest.unwrap().exit, Some(ProcessExit::Signal(15)));
    vm.remove().await;
    host.clean().await;
}

/// The real daemon dies in a state of a pull that was left to it; the next one finishes it, with
/// the login when that is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_the_daemon() {
    if !cfg!(feature = "failpoints") {
        println!("SKIP: built without the feature failpoints");
        return;
    }
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let Some(registry) = Registry::start(&host).await else {
        return;
    };
    let image = registry.push(&host, "story", &[("bin/story", STORY)], &SETTINGS);
    let config = Registry::docker_config(&host, "right", Registry::PASSWORD);
    for (state, needs_login) in [("download", true), ("unpack", false), ("seal", false)] {
        host.terminate_daemon().await;
        host.set("FAILPOINT", &format!("image:{state}"));
        host.start_daemon().await;
        let asked = hearth(&host, &config, &["image", "pull", "--detach", &image]);
        println!("{state}: {asked:?}");
        let status = host.daemon_ends().await;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        host.unset("FAILPOINT");
        host.start_daemon().await;
        let job = ended(&host, &config, &image).await;
        assert_eq!(job["restarts"], 1, "{job}");
        if needs_login {
            assert_eq!(job["state"], "aborted", "{job}");
            assert_eq!(job["failure"]["reason"], "login", "{job}");
            let hint = job["failure"]["problem"]["hint"].as_str().unwrap();
            assert!(hint.contains("hearth image retry"), "{hint}");
            assert!(
                host.log().contains("FSM aborted"),
                "the log has no line of it"
            );
            let again = hearth(&host, &config, &["image", "retry", &image]);
            assert!(again.status.success(), "{again:?}");
        } else {
            assert_eq!(job["state"], "ready", "{job}");
        }
        let removed = hearth(&host, &config, &["image", "rm", &image]);
        assert!(removed.status.success(), "{removed:?}");
    }
    host.clean().await;
}

fn hearth(host: &Host, config: &camino::Utf8Path, arguments: &[&str]) -> Output {
    let mut command = host.netns.command(our_program("hearth", "hearth").as_str());
    command
        .env("HEARTH_HOST", format!("unix://{}", host.socket()))
        .env("DOCKER_CONFIG", config)
        .args(arguments);
    command.output().unwrap()
}

/// The job of an image when it has ended.
async fn ended(host: &Host, config: &camino::Utf8Path, image: &str) -> serde_json::Value {
    eventually("the end of the pull", || async {
        let shown = hearth(host, config, &["image", "status", image, "-o", "json"]);
        let job: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        job.get("ended_at").is_some().then_some(job)
    })
    .await
}

/// Without a login, with a wrong one, with the right one; the daemon's log knows none of them.
fn logins(host: &Host, reference: &str) {
    const WRONG: &str = "battery staple 77d0";
    let nobody = host.dir().join("nobody");
    let wrong = Registry::docker_config(host, "wrong", WRONG);
    for (config, asker) in [
        (&nobody, "anybody who has not logged in"),
        (&wrong, "user \"alice\""),
    ] {
        let refused = pull(host, config.as_str(), reference);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{said}");
        let expected = format!("127.0.0.1:5000 does not give story to {asker}");
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains("hint: check the name, and log in"), "{said}");
        assert!(said.contains("docker login 127.0.0.1:5000"), "{said}");
        assert!(!said.contains(WRONG), "{said}");
    }
    let right = Registry::docker_config(host, "right", Registry::PASSWORD);
    let pulled = pull(host, right.as_str(), reference);
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), reference);
    for secret in [WRONG, Registry::PASSWORD] {
        assert!(!host.log().contains(secret), "the log has a password");
    }
}
