//! What is shown.

use hearth_types::event::Severity;
use hearth_types::ids::EventSeq;
use hearth_types::mode::Mode;
use hearth_types::orphan::OrphanList;
use hearth_types::pool::{PoolState, PoolUsage};
use hearth_types::status::Phase;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::*;

#[test]
fn nothing_is_known_yet() {
    let mut model = Model::new(Theme::Plain, at(0));
    model.update(News::Size(80, 24), at(0));
    insta::assert_snapshot!(frame(&model));
}

#[test]
fn empty_host() {
    insta::assert_snapshot!(frame(&model(overview(vec![]), 80, 24)));
}

#[test]
fn three_vms() {
    let mut told = three();
    told.under_way = vec![
        work("start_vmm", Some("worker-long-name-that-goes-on"), 3, false),
        work("ensure_disks", Some("new"), 700, true),
    ];
    told.pool = Some(pool(PoolState::Up));
    told.last_event = EventSeq(3);
    let mut model = model(told.clone(), 80, 24);
    for event in [
        event(1, Severity::Info, "web-1", "web-1 runs"),
        event(
            2,
            Severity::Warning,
            "db",
            "check tcp has failed 3 times in a row: connection refused by the guest, port 5432",
        ),
        event(3, Severity::Error, "", "the bridge could not be made"),
    ] {
        model.update(News::Event(Box::new(event)), at(0));
    }
    model.update(News::Overview(Box::new(later(&told))), at(1));
    insta::assert_snapshot!("three_vms_80x24", frame(&model));
    model.update(News::Size(140, 34), at(1));
    insta::assert_snapshot!("three_vms_140x34", frame(&model));
    model.update(News::Size(60, 12), at(1));
    insta::assert_snapshot!("three_vms_60x12", frame(&model));
    model.update(News::Size(30, 5), at(1));
    insta::assert_snapshot!("three_vms_30x5", frame(&model));
}

#[test]
fn thousand_vms_scrolled() {
    let mut model = model(thousand(), 80, 24);
    for _ in 0..30 {
        model.update(News::Key(Key::PageDown), at(1));
    }
    model.update(News::Key(Key::Up), at(1));
    insta::assert_snapshot!(frame(&model));
    model.update(News::Key(Key::End), at(1));
    assert!(frame(&model).contains(">vm-0999"));
}

#[test]
fn filtered() {
    let mut model = model(thousand(), 80, 24);
    press(&mut model, "/99");
    insta::assert_snapshot!("filter_typed", frame(&model));
    model.update(News::Key(Key::Enter), at(1));
    press(&mut model, "/x");
    model.update(News::Key(Key::Enter), at(1));
    insta::assert_snapshot!("filter_finds_nothing", frame(&model));
}

#[test]
fn sorted_by_each_column() {
    let mut told = overview(vec![
        vm(4, "delta", Phase::Exited),
        vm(1, "alpha", Phase::Running),
        vm(3, "gamma", Phase::Paused),
    ]);
    told.vms.extend(three().vms);
    told.vms.sort_by(|a, b| a.name.cmp(&b.name));
    let mut model = model(told.clone(), 80, 16);
    model.update(News::Overview(Box::new(later(&told))), at(1));
    let mut shown = String::new();
    for key in "1234567".chars() {
        // By name it is sorted at first.
        if key != '1' {
            press(&mut model, &key.to_string());
        }
        for reversed in [false, true] {
            let frame = frame(&model);
            let table: Vec<&str> = frame.lines().skip(3).take(7).collect();
            let word = if reversed { ", reversed" } else { "" };
            shown.push_str(&format!("key {key}{word}\n{}\n\n", table.join("\n")));
            press(&mut model, "T");
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn pool_in_trouble() {
    let mut told = overview(vec![vm(1, "web", Phase::Running)]);
    let mut full = pool(PoolState::Full);
    full.data = Some(PoolUsage {
        used: Some(2 << 30),
        size: 2 << 30,
    });
    full.reason = Some("no free block".to_owned());
    let mut heads = String::new();
    let mut down = pool(PoolState::Down);
    down.data = Some(PoolUsage {
        used: None,
        size: 2 << 30,
    });
    let mut damaged = pool(PoolState::Damaged);
    (damaged.data, damaged.metadata) = (None, None);
    damaged.reason = Some("thin_check: bad checksum in the superblock".to_owned());
    for pool in [Some(full), Some(down), Some(damaged), None] {
        told.pool = pool;
        let frame = frame(&model(told.clone(), 80, 24));
        heads.push_str(frame.lines().nth(2).unwrap());
        heads.push('\n');
    }
    insta::assert_snapshot!(heads);
}

#[test]
fn mode_and_breaker() {
    let mut told = three();
    told.mode = Mode::Maintenance;
    told.mode_reason = Some(
        "many VMs fail for one cause: no space left on the device of the data folder".to_owned(),
    );
    told.host_breaker = Some("many VMs fail".to_owned());
    let mut model = model(told, 80, 24);
    let orphans = OrphanList {
        items: vec![],
        unknown: vec![],
    };
    model.update(News::Orphans(orphans), at(0));
    insta::assert_snapshot!(frame(&model).lines().take(3).collect::<Vec<_>>().join("\n"));
}

#[test]
fn daemon_gone_and_back() {
    let mut model = model(three(), 80, 24);
    let lost = |again| News::Lost {
        why: "Cannot reach hearthd at unix:///run/hearth/hearthd.sock: Connection refused"
            .to_owned(),
        again: at(again),
    };
    model.update(lost(11), at(10));
    model.update(lost(16), at(12));
    insta::assert_snapshot!("daemon_gone", frame(&model));
    let mut back = three();
    back.at = at(20);
    model.update(News::Overview(Box::new(back)), at(20));
    assert!(frame(&model).starts_with(" hearth  3 VMs"));
}

#[test]
fn daemon_never_there() {
    let mut model = Model::new(Theme::Plain, at(0));
    model.update(News::Size(80, 24), at(0));
    let why = "Cannot reach hearthd at unix:///x.sock: No such file or directory".to_owned();
    model.update(News::Lost { why, again: at(4) }, at(0));
    insta::assert_snapshot!(frame(&model).lines().take(2).collect::<Vec<_>>().join("\n"));
}

#[test]
fn questions() {
    let mut model = model(three(), 80, 24);
    press(&mut model, "s");
    insta::assert_snapshot!("question_stop", frame(&model));
    press(&mut model, "nGr");
    insta::assert_snapshot!("question_recover", frame(&model));
}

#[test]
fn wide_and_hostile_names() {
    let mut told = overview(vec![
        vm(1, "データベース-主系-東京リージョン-一番", Phase::Running),
        vm(2, "웹서버", Phase::Failed),
        vm(3, "evil\u{1b}[2J\u{202e}name\r\n", Phase::Running),
    ]);
    told.vms[1].reason =
        Some("이미지를 찾을 수 없습니다 \u{1b}]0;title\u{7} 数据库连接失败".to_owned());
    let mut model = model(told, 80, 24);
    model.update(News::Key(Key::Down), at(1));
    let text = frame(&model);
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}', '\r']));
    insta::assert_snapshot!(text);
}

#[test]
fn pages() {
    let mut told = three();
    told.under_way = vec![work("ensure_disks", Some("new"), 700, true)];
    let operation = serde_json::json!({
        "operation": "suspend", "state": "stuck", "since": at(-90).to_string(),
    });
    let mut up = pool(PoolState::Up);
    up.operations = vec![serde_json::from_value(operation).unwrap()];
    told.pool = Some(up);
    let mut model = model(told, 80, 24);
    for seq in 1..40 {
        let text = "something happened, and this is a long sentence about it that goes over more than a line";
        model.update(
            News::Event(Box::new(event(seq, Severity::Info, "db", text))),
            at(0),
        );
    }
    for (key, name) in [
        ("?", "help"),
        ("e", "events"),
        ("w", "work"),
        ("o", "orphans"),
    ] {
        press(&mut model, key);
        insta::assert_snapshot!(format!("page_{name}"), frame(&model));
    }
    press(&mut model, "oG");
    model.update(News::Key(Key::Enter), at(1));
    insta::assert_snapshot!("page_detail", frame(&model));
}

#[test]
fn plain_text_has_every_vm_and_no_spaces_at_the_ends() {
    let text = crate::plain(&model(three(), 80, 24), 80);
    insta::assert_snapshot!("plain", text);
    let all = crate::plain(&model(thousand(), 80, 24), 80);
    assert_eq!(
        all.lines().filter(|line| line.starts_with(" vm-")).count(),
        1000
    );
    assert!(all.lines().all(|line| line == line.trim_end()));
}

#[test]
fn colours_are_used_only_where_they_may_be() {
    let colours = |theme| {
        let mut model = Model::new(theme, at(0));
        model.update(News::Size(80, 24), at(0));
        model.update(News::Overview(Box::new(three())), at(0));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let frame = terminal.draw(|frame| crate::draw(&model, frame)).unwrap();
        let cells = frame.buffer.content();
        let coloured = cells
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        // What is bad stands out without colours, too.
        let unhealthy = cells.windows(9).position(|part| {
            part.iter().map(|cell| cell.symbol()).collect::<String>() == "unhealthy"
        });
        let bold = cells[unhealthy.unwrap()].modifier.contains(Modifier::BOLD);
        (coloured, bold)
    };
    assert_eq!(colours(Theme::Colour), (true, true));
    assert_eq!(colours(Theme::Plain), (false, true));
}
