//! A script that fails, made smaller: strokes are left out as long as it still fails (ddmin, by
//! Zeller and Hildebrandt).

use super::play::play;
use super::script::{Script, Stroke};

/// Plays that may be spent on one script.
const MOST: u32 = 400;

/// The smallest script found that still fails, and with what.
pub(super) fn shrink(script: &Script, failure: String) -> (Script, String) {
    let mut best = (script.clone(), failure);
    let (mut parts, mut left) = (2, MOST);
    while best.0.strokes.len() > 1 && left > 0 {
        let strokes = best.0.strokes.clone();
        let size = strokes.len().div_ceil(parts);
        let smaller = (0..strokes.len()).step_by(size).find_map(|from| {
            left = left.saturating_sub(1);
            let rest = without(&strokes, from, size);
            let script = script.with(rest);
            play(&script).err().map(|failure| (script, failure))
        });
        match smaller {
            Some(smaller) => {
                best = smaller;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(strokes.len()),
        }
    }
    best
}

fn without(strokes: &[(usize, Stroke)], from: usize, count: usize) -> Vec<(usize, Stroke)> {
    let to = (from + count).min(strokes.len());
    [&strokes[..from], &strokes[to..]].concat()
}

/// Plays the world that the environment names.
const AGAIN: &str =
    "cargo nextest run -p hearthd --test sim -E 'test(every_word_comes_true_in_worlds_0)'";

/// How to play it again.
pub(super) fn recipe(script: &Script) -> String {
    let places: Vec<_> = script
        .strokes
        .iter()
        .map(|(place, _)| place.to_string())
        .collect();
    let seed = script.seed;
    let mut text = format!(
        "HEARTH_SIM_SEED={seed} HEARTH_SIM_STEPS={} {AGAIN}\n",
        places.join(",")
    );
    for (place, stroke) in &script.strokes {
        text.push_str(&format!(
            "  {place}: {:?}, then {} ms\n",
            stroke.deed, stroke.pause
        ));
    }
    text
}
