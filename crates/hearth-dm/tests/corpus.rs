//! Mutants of what pools and thin devices say: nothing of it is misread as another state.

// What Clippy asks of a test module: helpers may unwrap like the tests themselves.
#[cfg(test)]
mod mutants {
    use hearth_dm::thin::{PoolStatus, ThinStatus};

    include!("../../../fuzz/mutate.rs");

    #[test]
    fn of_statuses() {
        play(
            "dm-status",
            |_| {},
            |bytes| {
                let said = String::from_utf8_lossy(bytes);
                let words: Vec<&str> = said.split_ascii_whitespace().collect();
                let gave_up = matches!(words.as_slice(), ["Fail" | "Error"]);
                match said.parse::<PoolStatus>() {
                    Ok(PoolStatus::Failed) => assert!(gave_up, "{said:?}"),
                    Ok(PoolStatus::Works { data, metadata, .. }) => {
                        assert!(!gave_up && words.len() >= 5, "{said:?}");
                        assert!(data.free() <= data.total && metadata.free() <= metadata.total);
                    }
                    Err(error) => assert!(!gave_up, "{said:?}: {error}"),
                }
                if let Ok(ThinStatus::Works { .. }) = said.parse::<ThinStatus>() {
                    assert!(words.len() >= 2, "{said:?}");
                }
            },
        );
    }
}
