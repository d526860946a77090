//! The token of the TCP router.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};

use crate::rig::{Answer, METRICS_TOKEN, Rig, TOKEN, read, request};

async fn get(rig: &Rig, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = request(Method::GET, path, Body::empty());
    if let Some(value) = authorization {
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, value.parse().unwrap());
    }
    read(rig.token_router(), request).await
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let rig = Rig::new().await;
    let longer = format!("Bearer {TOKEN}x");
    let basic = format!("Basic {TOKEN}");
    for wrong in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some(TOKEN),
        Some(longer.as_str()),
        Some(basic.as_str()),
    ] {
        for path in [
            "/v1/vms",
            "/v1/vms/web",
            "/v1/events",
            "/metrics",
            "/nosuch",
            "/v1/vms/web/exec",
            "//health",
            "/health/../v1/vms",
        ] {
            let answer = get(&rig, path, wrong).await;
            let problem = answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{wrong:?}");
            assert!(!problem.to_string().contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn with_it_everything_is_and_health_and_info_always() {
    let rig = Rig::new().await;
    // The scheme's name is case-insensitive (RFC 9110, 11.1).
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let right = format!("{scheme} {TOKEN}");
        assert_eq!(
            get(&rig, "/v1/vms", Some(&right)).await.status,
            StatusCode::OK
        );
        assert_eq!(
            get(&rig, "/metrics", Some(&right)).await.status,
            StatusCode::OK
        );
        get(&rig, "/nosuch", Some(&right))
            .await
            .problem(404, "not_found");
    }
    for path in ["/health", "/info"] {
        assert_eq!(get(&rig, path, None).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_token_for_metrics_opens_nothing_else() {
    let rig = Rig::new().await;
    let metrics = format!("Bearer {METRICS_TOKEN}");
    let answer = get(&rig, "/metrics", Some(&metrics)).await;
    assert_eq!(answer.status, StatusCode::OK);
    for path in [
        "/v1/vms",
        "/v1/events",
        "/metrics/",
        "//metrics",
        "/v1/plan",
    ] {
        let answer = get(&rig, path, Some(&metrics)).await;
        answer.problem(401, "unauthorized");
    }
}
