//! The log of events, as a list and as a stream.

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, StatusCode, header};
use futures::StreamExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::rig::{Rig, request, within};

struct Sse {
    body: BodyDataStream,
    text: String,
}

impl Sse {
    async fn open(rig: &Rig, query: &str, last: Option<&str>) -> Self {
        let mut request = request(Method::GET, &format!("/v1/events{query}"), Body::empty());
        request
            .headers_mut()
            .insert(header::ACCEPT, "text/event-stream".parse().unwrap());
        if let Some(last) = last {
            request
                .headers_mut()
                .insert("last-event-id", last.parse().unwrap());
        }
        let response = rig.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event: its id and its data. None at the end.
    async fn next(&mut self) -> Option<(u64, Value)> {
        within("an event", async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let field = |name: &str| {
                        event
                            .lines()
                            .find_map(|line| line.strip_prefix(name))
                            .map(str::trim)
                    };
                    let parsed = field("id:").map(|id| {
                        (
                            id.parse().unwrap(),
                            serde_json::from_str(field("data:").unwrap()).unwrap(),
                        )
                    });
                    self.text = rest.to_owned();
                    match parsed {
                        Some(event) => return Some(event),
                        None => continue,
                    }
                }
                let piece = self.body.next().await?.unwrap();
                self.text.push_str(std::str::from_utf8(&piece).unwrap());
            }
        })
        .await
    }
}

#[tokio::test]
async fn the_list_goes_on_after_a_number() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        rig.create(name).await;
    }
    let all = rig.get("/v1/events").await.json()["items"]
        .as_array()
        .unwrap()
        .clone();
    assert!(all.len() >= 3);
    let first = all[0]["seq"].as_u64().unwrap();
    let rest = rig
        .get(&format!("/v1/events?after={first}&limit=1"))
        .await
        .json();
    assert_eq!(rest["items"], Value::Array(vec![all[1].clone()]));
    assert_eq!(
        rig.get("/v1/events?after=99999").await.json()["items"],
        Value::Array(Vec::new())
    );
}

#[tokio::test]
async fn a_stream_begins_with_what_is_new() {
    let rig = Rig::new().await;
    rig.create("old").await;
    let mut stream = Sse::open(&rig, "", None).await;
    rig.create("new").await;
    let (_, event) = stream.next().await.unwrap();
    assert_eq!(
        (&event["code"], &event["name"]),
        (&"vm.created".into(), &"new".into())
    );
}

#[tokio::test]
async fn a_broken_stream_is_resumed_without_loss() {
    let rig = Rig::new().await;
    let mut stream = Sse::open(&rig, "?after=0", None).await;
    for name in ["a", "b", "c"] {
        rig.create(name).await;
    }
    let (first, _) = stream.next().await.unwrap();
    let (second, expected) = stream.next().await.unwrap();
    drop(stream);
    let number = first.to_string();
    // The header is newer than what the address was opened with.
    for (query, last) in [
        (format!("?after={first}"), None),
        ("?after=0".to_owned(), Some(number.as_str())),
    ] {
        let mut resumed = Sse::open(&rig, &query, last).await;
        assert_eq!(resumed.next().await.unwrap(), (second, expected.clone()));
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_daemon() {
    let rig = Rig::new().await;
    let mut stream = Sse::open(&rig, "", None).await;
    let (end, ()) = tokio::join!(stream.next(), async { rig.stop_daemon() });
    assert_eq!(end, None);
}

#[tokio::test]
async fn a_last_event_that_is_no_number_is_refused() {
    let rig = Rig::new().await;
    let mut request = request(Method::GET, "/v1/events", Body::empty());
    request
        .headers_mut()
        .insert(header::ACCEPT, "text/event-stream".parse().unwrap());
    request
        .headers_mut()
        .insert("last-event-id", "seven".parse().unwrap());
    rig.send(request).await.problem(400, "invalid");
}
