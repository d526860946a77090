//! What keys and news change.

use hearth_types::event::Severity;
use hearth_types::ids::EventSeq;
use hearth_types::status::Phase;

use super::*;
use crate::model::{EVENTS, Link, Page};
use crate::{Action, Effect};

fn key(model: &mut Model, key: Key) -> Option<Effect> {
    model.update(News::Key(key), at(1))
}

fn letter(model: &mut Model, letter: char) -> Option<Effect> {
    key(model, Key::Char(letter))
}

fn chosen(model: &Model) -> &str {
    model.chosen_vm().map_or("", |vm| vm.name.as_str())
}

#[test]
fn moving_stays_within_the_table_and_on_the_screen() {
    let mut model = model(thousand(), 80, 24);
    let rows = model.rows;
    assert_eq!((chosen(&model), rows), ("vm-0000", 12));
    for (pressed, name) in [
        (Key::Up, "vm-0000"),
        (Key::Down, "vm-0001"),
        (Key::Char('j'), "vm-0002"),
        (Key::Char('k'), "vm-0001"),
        (Key::PageDown, "vm-0013"),
        (Key::Char(' '), "vm-0025"),
        (Key::PageUp, "vm-0013"),
        (Key::End, "vm-0999"),
        (Key::Down, "vm-0999"),
        (Key::Home, "vm-0000"),
        (Key::Char('G'), "vm-0999"),
        (Key::Char('g'), "vm-0000"),
    ] {
        assert_eq!(key(&mut model, pressed), None);
        assert_eq!(chosen(&model), name, "after {pressed:?}");
        let row = model.chosen_row().unwrap();
        assert!((model.top..model.top + rows).contains(&row), "{pressed:?}");
    }
}

#[test]
fn the_choice_stays_with_its_vm_and_passes_on_when_that_goes() {
    let mut told = three();
    let mut model = model(told.clone(), 80, 24);
    key(&mut model, Key::Down);
    assert_eq!(chosen(&model), "web-1");
    told.vms.insert(0, vm(9, "aaa", Phase::Created));
    model.update(News::Overview(Box::new(told.clone())), at(1));
    assert_eq!(chosen(&model), "web-1");
    press(&mut model, "2");
    assert_eq!(chosen(&model), "web-1");
    told.vms.retain(|vm| vm.name != "web-1");
    model.update(News::Overview(Box::new(told)), at(1));
    assert!(!chosen(&model).is_empty());
    model.update(News::Overview(Box::new(overview(vec![]))), at(1));
    assert_eq!(model.chosen, None);
    assert_eq!(letter(&mut model, 's'), None, "nothing to stop");
    assert_eq!(key(&mut model, Key::Enter), None);
    assert_eq!(model.page, Page::Vms);
}

#[test]
fn leaving() {
    let mut model = model(three(), 80, 24);
    assert_eq!(letter(&mut model, 'q'), Some(Effect::Quit));
    press(&mut model, "/q");
    assert_eq!(model.filter, "q", "a letter of the filter");
    assert_eq!(key(&mut model, Key::Interrupt), Some(Effect::Quit));
    key(&mut model, Key::Escape);
    press(&mut model, "s");
    assert_eq!(key(&mut model, Key::Interrupt), Some(Effect::Quit));
}

#[test]
fn pages_open_close_and_lead_to_each_other() {
    let mut model = model(three(), 80, 24);
    for (letter, page) in [
        ('?', Page::Help),
        ('h', Page::Help),
        ('e', Page::Events),
        ('w', Page::Work),
    ] {
        assert_eq!(self::letter(&mut model, letter), None);
        assert_eq!(model.page, page);
        self::letter(&mut model, letter);
        assert_eq!(model.page, Page::Vms, "{letter} again leads back");
    }
    assert_eq!(letter(&mut model, 'o'), Some(Effect::LookForOrphans));
    assert_eq!(model.page, Page::Orphans);
    letter(&mut model, 'e');
    assert_eq!(model.page, Page::Events);
    key(&mut model, Key::Escape);
    assert_eq!(model.page, Page::Vms);
    key(&mut model, Key::Enter);
    assert_eq!(model.page, Page::Detail);
    assert_eq!(letter(&mut model, 'l'), Some(Effect::Logs { vm: id(2) }));
    key(&mut model, Key::Enter);
    assert_eq!(model.page, Page::Vms);
    assert_eq!(letter(&mut model, 'R'), Some(Effect::Look));
}

#[test]
fn stop_is_asked_first() {
    let mut model = model(three(), 80, 24);
    assert_eq!(letter(&mut model, 's'), None);
    assert_eq!(letter(&mut model, 'n'), None);
    assert!(model.question.is_none());
    assert_eq!(letter(&mut model, 's'), None);
    assert_eq!(key(&mut model, Key::Enter), None, "Enter is no yes");
    letter(&mut model, 's');
    let name = "db".to_owned();
    let stop = Effect::Act {
        action: Action::Stop,
        vm: id(2),
        name,
    };
    assert_eq!(letter(&mut model, 'y'), Some(stop));
    assert_eq!(letter(&mut model, 'y'), None, "once");
}

#[test]
fn the_same_key_starts_one_that_does_not_run() {
    for phase in [Phase::Created, Phase::Exited] {
        let mut told = three();
        told.vms[0].phase = phase;
        let mut model = model(told, 80, 24);
        assert_eq!(letter(&mut model, 's'), None, "it is asked first");
        assert_eq!(model.question.as_ref().unwrap().action, Action::Start);
        let start = Effect::Act {
            action: Action::Start,
            vm: id(2),
            name: "db".to_owned(),
        };
        assert_eq!(letter(&mut model, 'y'), Some(start));
    }
}

#[test]
fn a_question_is_about_the_vm_it_was_asked_of() {
    let mut told = three();
    let mut model = model(told.clone(), 80, 24);
    letter(&mut model, 's');
    // Another one has its name now.
    told.vms[0].id = id(77);
    model.update(News::Overview(Box::new(told)), at(2));
    assert!(model.question.is_none());
    assert_eq!(letter(&mut model, 'y'), None);
}

#[test]
fn recover_is_asked_first_and_may_be_forced() {
    let mut model = model(three(), 80, 24);
    assert_eq!(letter(&mut model, 'r'), None, "it runs");
    assert!(model.question.is_none() && model.notice.is_some());
    key(&mut model, Key::End);
    for (answer, force) in [('y', false), ('f', true)] {
        assert_eq!(letter(&mut model, 'r'), None);
        let name = "worker-long-name-that-goes-on".to_owned();
        let action = Action::Recover { force };
        let act = Effect::Act {
            action,
            vm: id(3),
            name,
        };
        assert_eq!(letter(&mut model, answer), Some(act));
    }
    assert_eq!(letter(&mut model, 'c'), None, "it has no console");
    assert_eq!(
        letter(&mut model, 'l'),
        Some(Effect::Logs { vm: id(3) }),
        "and a log"
    );
    let mut stopping = three();
    stopping.vms[2].phase = Phase::Stopping;
    model.update(News::Overview(Box::new(stopping)), at(2));
    assert_eq!(letter(&mut model, 's'), None);
    assert!(model.question.is_none(), "it is being stopped already");
}

#[test]
fn console_and_logs() {
    let mut model = model(three(), 80, 24);
    assert_eq!(letter(&mut model, 'c'), Some(Effect::Console { vm: id(2) }));
    assert_eq!(letter(&mut model, 'l'), Some(Effect::Logs { vm: id(2) }));
}

#[test]
fn nothing_is_asked_of_a_daemon_that_is_gone() {
    let mut model = model(three(), 80, 24);
    letter(&mut model, 's');
    let why = "gone".to_owned();
    model.update(News::Lost { why, again: at(9) }, at(2));
    assert!(model.question.is_none());
    for letter in ['s', 'c', 'l', 'r'] {
        assert_eq!(self::letter(&mut model, letter), None, "{letter}");
        assert!(model.question.is_none(), "{letter}");
    }
    assert_eq!(model.shown.len(), 3, "the last picture stays");
    assert_eq!(letter(&mut model, 'R'), Some(Effect::Look));
    model.update(News::Overview(Box::new(three())), at(3));
    assert_eq!(*model.link(), Link::Up);
}

#[test]
fn the_filter_looks_at_name_image_state_health_and_reason() {
    let mut model = model(three(), 80, 24);
    for (text, count) in [
        ("WEB", 1),
        ("nginx", 3),
        ("backoff", 1),
        ("unhealthy", 1),
        ("refused", 1),
        ("breaker", 1),
        ("nothing has this", 0),
    ] {
        press(&mut model, "/");
        key(&mut model, Key::Clear);
        press(&mut model, text);
        assert_eq!(model.shown.len(), count, "/{text}");
        key(&mut model, Key::Enter);
        assert_eq!((model.shown.len(), model.typing), (count, false));
    }
    key(&mut model, Key::Escape);
    assert_eq!((model.shown.len(), model.filter.as_str()), (3, ""));
    press(&mut model, "/web");
    key(&mut model, Key::Backspace);
    assert_eq!(model.filter, "we");
    key(&mut model, Key::Escape);
    assert_eq!((model.typing, model.filter.as_str()), (false, ""));
}

#[test]
fn sorting_goes_on_to_the_next_column_and_round() {
    let mut model = model(three(), 80, 24);
    let mut words = Vec::new();
    for _ in 0..7 {
        letter(&mut model, 't');
        words.push(model.order.column.as_str());
    }
    let all = [
        "state", "health", "cpu", "memory", "uptime", "restarts", "name",
    ];
    assert_eq!(words, all);
    letter(&mut model, '7');
    assert_eq!(chosen_first(&model), "worker-long-name-that-goes-on");
    letter(&mut model, '7');
    assert!(model.order.reversed);
    letter(&mut model, '1');
    assert!(!model.order.reversed, "another column begins anew");
}

fn chosen_first(model: &Model) -> &str {
    &model.visible().next().unwrap().name
}

#[test]
fn shares_of_the_cpu_are_of_one_run() {
    let mut before = three();
    before.vms[0].cpu_millis = Some(1000);
    let mut after = before.clone();
    after.at = at(2);
    after.vms[0].cpu_millis = Some(4000);
    // Started anew: what it used before is another process's.
    after.vms[1].started_at = Some(at(1));
    after.vms[1].cpu_millis = Some(90_000);
    let mut model = model(before, 80, 24);
    model.update(News::Overview(Box::new(after.clone())), at(2));
    assert_eq!(model.cpu.get(&id(2)), Some(&150.0));
    assert_eq!(model.cpu.get(&id(1)), None);
    // The same answer once more is no new look.
    model.update(News::Overview(Box::new(after)), at(2));
    assert_eq!(model.cpu.get(&id(2)), Some(&150.0));
}

#[test]
fn events_are_kept_once_in_order_and_not_for_ever() {
    let mut told = three();
    told.last_event = EventSeq(EVENTS as u64 + 10);
    let mut model = model(told, 80, 24);
    for seq in (1..=EVENTS as u64 + 10).chain([5, 6]) {
        model.update(
            News::Event(Box::new(event(seq, Severity::Info, "a", "b"))),
            at(1),
        );
    }
    assert_eq!(model.events.len(), EVENTS);
    assert_eq!(model.events.front().unwrap().seq, EventSeq(11));
    // A database from before: what is newer than its newest one never happened there.
    let mut restored = three();
    restored.last_event = EventSeq(20);
    model.update(News::Overview(Box::new(restored)), at(2));
    assert_eq!(model.events.back().unwrap().seq, EventSeq(20));
}

#[test]
fn scrolling_has_ends_and_stays_where_the_person_reads() {
    let mut told = three();
    told.last_event = EventSeq(1000);
    let mut model = model(told, 80, 24);
    let tell = |model: &mut Model, seq| {
        model.update(
            News::Event(Box::new(event(seq, Severity::Info, "a", "b"))),
            at(1),
        )
    };
    for seq in 1..=100 {
        tell(&mut model, seq);
    }
    letter(&mut model, 'e');
    key(&mut model, Key::Down);
    assert_eq!(model.scroll, 0);
    key(&mut model, Key::Up);
    let read = frame(&model).lines().nth(4).unwrap().to_owned();
    tell(&mut model, 101);
    assert_eq!(frame(&model).lines().nth(4).unwrap(), read);
    key(&mut model, Key::Home);
    let first = model.scroll;
    key(&mut model, Key::PageUp);
    assert_eq!(model.scroll, first);
    key(&mut model, Key::End);
    assert_eq!(model.scroll, 0);
    letter(&mut model, '?');
    key(&mut model, Key::PageDown);
    assert_eq!(model.scroll, 0, "the help fits on the screen");
}

#[test]
fn notices_go_after_a_while_or_with_the_next_key() {
    let mut model = model(three(), 80, 24);
    model.update(News::Acted(Err("db: no".to_owned())), at(1));
    assert!(frame(&model).ends_with(" db: no\n"));
    model.update(News::Tick, at(2));
    assert!(model.notice.is_some());
    model.update(News::Tick, at(60));
    assert!(model.notice.is_none());
    model.update(News::Acted(Ok("done".to_owned())), at(61));
    key(&mut model, Key::Down);
    assert!(model.notice.is_none());
}

#[test]
fn a_smaller_screen_keeps_the_choice_on_it() {
    let mut model = model(thousand(), 80, 60);
    key(&mut model, Key::PageDown);
    let was = chosen(&model).to_owned();
    model.update(News::Size(80, 12), at(1));
    assert_eq!(chosen(&model), was);
    assert!(frame(&model).contains(&format!(">{was}")));
}
