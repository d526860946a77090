use super::*;
use crate::image::ImageHealthcheck;
use crate::manifest::{Entry, Format, Manifest};
use crate::spec::{NetworkMode, RestartPolicy, VmSpec};

fn vm(health: HealthSpec) -> VmSpec {
    let mut spec = VmSpec::new("web".parse().unwrap(), "debian:12");
    spec.health = health;
    spec
}

fn paths(spec: &VmSpec) -> Vec<String> {
    spec.check().into_iter().map(|error| error.path).collect()
}

fn names(health: &HealthSpec, image: Option<&ImageHealthcheck>) -> Vec<String> {
    let checks = health.checks(image).into_iter();
    checks.map(|check| check.name).collect()
}

fn image_check() -> ImageHealthcheck {
    ImageHealthcheck {
        command: vec!["true".to_owned()],
        interval: Some(Span::secs(7)),
        timeout: None,
        start_period: Some(Span::secs(1)),
        retries: Some(9),
    }
}

#[test]
fn four_checks_are_made_unasked() {
    let checks = HealthSpec::default().checks(None);
    let kinds: Vec<_> = checks.iter().map(|check| check.probe.kind()).collect();
    assert_eq!(kinds, BUILT_IN);
    for check in checks {
        assert_eq!(check.interval, DEFAULT_INTERVAL.as_duration());
        assert_eq!(check.timeout, DEFAULT_TIMEOUT.as_duration());
        assert_eq!(check.failure_threshold, 3);
        assert_eq!(check.success_threshold, 2);
        assert_eq!(check.on_failure, OnFailure::None);
    }
}

#[test]
fn what_is_said_of_a_kind_replaces_the_built_in_check() {
    let agent = CheckSpec {
        interval: Some(Span::secs(5)),
        ..CheckSpec::new(CheckKind::Agent)
    };
    let health = HealthSpec {
        interval: Some(Span::secs(60)),
        without: vec![CheckKind::Console],
        on_failure: Some(OnFailure::Restart),
        checks: vec![agent],
        ..HealthSpec::default()
    };
    let checks = health.checks(None);
    let seen: Vec<_> = checks
        .iter()
        .map(|check| (check.name.as_str(), check.interval.as_secs()))
        .collect();
    assert_eq!(seen, [("process", 60), ("vmm-api", 60), ("agent", 5)]);
    assert!(
        checks
            .iter()
            .all(|check| check.on_failure == OnFailure::Restart)
    );
}

#[test]
fn the_images_check_gives_way_as_dockers_does() {
    let image = image_check();
    let mut health = HealthSpec {
        interval: Some(Span::secs(11)),
        ..HealthSpec::default()
    };
    let checks = health.checks(Some(&image));
    let check = checks.last().unwrap();
    assert_eq!(check.name, "image");
    assert_eq!(
        (
            check.interval,
            check.timeout,
            check.start_period,
            check.failure_threshold
        ),
        (
            Span::secs(11).as_duration(),
            DEFAULT_TIMEOUT.as_duration(),
            Span::secs(1).as_duration(),
            9
        )
    );
    health.checks = vec![CheckSpec {
        command: Some(vec!["own".to_owned()]),
        ..CheckSpec::new(CheckKind::Exec)
    }];
    assert!(!names(&health, Some(&image)).contains(&"image".to_owned()));
    let none = HealthSpec {
        ignore_image: true,
        ..HealthSpec::default()
    };
    assert_eq!(names(&none, Some(&image)).len(), BUILT_IN.len());
}

#[test]
fn impossible_values_are_named_by_path() {
    let bad = CheckSpec {
        name: Some("a b".to_owned()),
        port: Some(0),
        path: Some("x y".to_owned()),
        command: Some(vec!["x".to_owned()]),
        timeout: Some(Span::millis(99)),
        failure_threshold: Some(0),
        ..CheckSpec::new(CheckKind::Http)
    };
    let exec = CheckSpec::new(CheckKind::Exec);
    let empty = CheckSpec {
        command: Some(Vec::new()),
        ..CheckSpec::new(CheckKind::Exec)
    };
    let console = CheckSpec {
        pattern: Some(String::new()),
        bad: vec!["ok".to_owned(), "two\nlines".to_owned()],
        on_failure: Some(OnFailure::Restart),
        ..CheckSpec::new(CheckKind::Console)
    };
    let expression = CheckSpec {
        name: Some("expression".to_owned()),
        pattern: Some("ready in [0-9]+ ms".to_owned()),
        bad: vec!["(".to_owned()],
        regex: true,
        ..CheckSpec::new(CheckKind::Console)
    };
    let mut spec = vm(HealthSpec {
        interval: Some(Span::millis(999)),
        start_period: Some(Span::secs(86_401)),
        success_threshold: Some(101),
        on_failure: Some(OnFailure::Restart),
        without: vec![CheckKind::Tcp, CheckKind::Console],
        checks: vec![bad, exec, empty, console, expression],
        ..HealthSpec::default()
    });
    spec.network.mode = NetworkMode::None;
    assert_eq!(
        paths(&spec),
        [
            "health.interval",
            "health.start_period",
            "health.success_threshold",
            "health.without[0]",
            "health.checks[0].timeout",
            "health.checks[0].failure_threshold",
            "health.checks[0].name",
            "health.checks[0].command",
            "health.checks[0].kind",
            "health.checks[0].port",
            "health.checks[0].path",
            "health.checks[1].command",
            "health.checks[2].command",
            "health.checks[2].name",
            "health.checks[3].pattern",
            "health.checks[3].bad[1]",
            "health.checks[3].kind",
            "health.checks[4].bad[0]",
            "health.checks[4].kind",
            "health.on_failure",
            "health.checks[3].on_failure",
        ]
    );
}

#[test]
fn qemus_agent_is_asked_once_and_by_qemu() {
    let agent = CheckSpec::new(CheckKind::QemuAgent);
    let second = CheckSpec {
        name: Some("again".to_owned()),
        ..agent.clone()
    };
    let mut spec = vm(HealthSpec {
        checks: vec![agent],
        ..HealthSpec::default()
    });
    assert_eq!(paths(&spec), Vec::<String>::new());
    assert!(spec.health.asks_qemu_agent());
    assert!(!HealthSpec::default().asks_qemu_agent());
    spec.driver = crate::spec::DriverChoice::Firecracker;
    assert_eq!(paths(&spec), ["health.checks[0].kind"]);
    spec.driver = crate::spec::DriverChoice::Auto;
    spec.health.checks.push(second);
    assert_eq!(paths(&spec), ["health.checks[1].kind"]);
}

#[test]
fn there_is_an_end_to_checks() {
    let mut spec = vm(HealthSpec {
        checks: (0..=MAX_CHECKS)
            .map(|number| CheckSpec {
                name: Some(format!("c{number}")),
                port: Some(80),
                ..CheckSpec::new(CheckKind::Tcp)
            })
            .collect(),
        ..HealthSpec::default()
    });
    assert_eq!(paths(&spec), ["health.checks"]);
    spec.health.checks.pop();
    spec.health.on_failure = Some(OnFailure::Restart);
    spec.restart = RestartPolicy::Always;
    assert_eq!(paths(&spec), Vec::<String>::new());
}

#[test]
fn files_say_it_and_errors_carry_the_path() {
    let text = "[[vm]]\nname='a'\nimage='x'\nrestart='always'\n[vm.health]\ninterval='10s'\non_failure='restart'\n[[vm.health.checks]]\nkind='http'\nport=80\nstatus='200-299'\n";
    let manifest = Manifest::parse(text, Format::Toml).unwrap();
    let Entry::Whole(spec) = &manifest.vm[0] else {
        panic!("{manifest:?}");
    };
    let health = &spec.health;
    assert_eq!(health.interval, Some(Span::secs(10)));
    assert_eq!(
        health.checks[0].status,
        Some(StatusRange { from: 200, to: 299 })
    );
    let json = serde_json::to_string(spec).unwrap();
    assert_eq!(serde_json::from_str::<VmSpec>(&json).unwrap(), **spec);
    for (bad, path) in [
        ("status='99'", "vm[0].health.checks[0].status"),
        ("port=70000", "vm[0].health.checks[0].port"),
        ("pord=1", "vm[0].health.checks[0]"),
    ] {
        let text =
            format!("[[vm]]\nname='a'\nimage='x'\n[[vm.health.checks]]\nkind='http'\n{bad}\n");
        let errors = Manifest::parse(&text, Format::Toml).unwrap_err();
        assert!(errors[0].path.starts_with(path), "{errors:?}");
    }
}

#[test]
fn nothing_said_is_not_written() {
    let text = serde_json::to_string(&vm(HealthSpec::default())).unwrap();
    assert!(!text.contains("health"), "{text}");
}

#[test]
fn ranges_of_status_codes() {
    for text in ["200", "200-399", "100-599"] {
        assert_eq!(text.parse::<StatusRange>().unwrap().to_string(), text);
    }
    for bad in ["", "99", "600", "300-200", "200-", "+200", "2xx"] {
        assert!(bad.parse::<StatusRange>().is_err(), "{bad:?} was accepted");
    }
}
