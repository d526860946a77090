//! Widths, sizes and ages.

use unicode_width::UnicodeWidthStr;

use super::at;
use crate::text::{bar, clean, cut, fit, right, seconds, size, span, wrap};

#[test]
fn texts_are_as_wide_as_asked_whatever_is_in_them() {
    for text in [
        "",
        "a",
        "abcdef",
        "データベース",
        "aデbータ",
        "e\u{301}e\u{301}e\u{301}",
        "👩‍👩‍👧 family",
    ] {
        for columns in 0..12 {
            assert!(
                cut(text, columns).width() <= columns,
                "{text:?} in {columns}"
            );
            assert_eq!(fit(text, columns).width(), columns, "{text:?} in {columns}");
            assert_eq!(
                right(text, columns).width(),
                columns,
                "{text:?} in {columns}"
            );
        }
    }
    assert_eq!(cut("abcdef", 4), "abc~");
    assert_eq!(cut("abcd", 4), "abcd");
}

#[test]
fn wrapped_lines_fit_and_lose_nothing() {
    let text = "a word, anotherveryveryverylongone, データベースサーバー and the rest";
    for columns in 2..40 {
        let lines = wrap(text, columns);
        assert!(
            lines.iter().all(|line| line.width() <= columns),
            "{columns}: {lines:?}"
        );
        let back: String = lines.concat().split_whitespace().collect();
        assert_eq!(
            back,
            text.split_whitespace().collect::<String>(),
            "{columns}"
        );
    }
    assert_eq!(wrap("", 10), [""]);
}

#[test]
fn control_characters_go() {
    assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}d\u{200b}\u{9b}"), "a[31mb cd");
}

#[test]
fn ages_and_sizes_are_short() {
    for (secs, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7200, "2h"),
        (172_800, "2d"),
        (86_399_999, "999d"),
        (86_400_000, "2y"),
    ] {
        assert_eq!(seconds(secs), text);
    }
    assert_eq!(span(at(5), at(0)), "0s", "a clock that was set back");
    for (bytes, text) in [
        (0, "0B"),
        (1023, "1023B"),
        (1 << 10, "1K"),
        (3 << 19, "1.5M"),
        (512 << 20, "512M"),
        (1 << 40, "1.0T"),
        (u64::MAX, "16383P"),
    ] {
        assert_eq!(size(bytes), text);
    }
}

#[test]
fn bars_are_full_when_all_is_used_and_not_before() {
    assert_eq!(bar(0, 100, 12), "[----------]");
    assert_eq!(bar(99, 100, 12), "[#########-]");
    assert_eq!(bar(100, 100, 12), "[##########]");
    assert_eq!(bar(200, 100, 12), "[##########]", "more than all");
    assert_eq!(bar(0, 0, 12), "[----------]", "of nothing");
    assert_eq!(bar(u64::MAX, u64::MAX, 4), "[##]");
}
