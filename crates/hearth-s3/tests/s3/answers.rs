//! What a server that checks signatures answers, and what becomes of it.

use futures::TryStreamExt as _;
use hearth_s3::{Bucket, Location, S3Error};

use crate::server::{BUCKET, KEY, SECRET, Server};
use crate::{Variables, settings};

fn location(key: &str) -> Location {
    format!("s3://{BUCKET}/{key}").parse().unwrap()
}

fn bucket(server: &Server, secret: &str) -> Bucket {
    let settings = settings(server.endpoint());
    Bucket::of(&location("x"), &settings, &Variables::keys(secret)).unwrap()
}

async fn bytes(bucket: &Bucket, key: &str, from: u64, etag: Option<&str>) -> Vec<u8> {
    let reading = bucket.read(key, from, etag).await.unwrap();
    let pieces: Vec<_> = reading.stream.try_collect().await.unwrap();
    pieces.concat()
}

/// Everything that a person may get to see of an error.
fn shown(error: &S3Error) -> String {
    let mut text = format!("{error} {error:?} {:?}", error.hint());
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn objects_and_their_parts() {
    let Some(server) = Server::start() else {
        return;
    };
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let bucket = bucket(&server, SECRET);
    for key in ["plain.tar", "deep/er/ä b+c%20&=?#.tar"] {
        server.put(&url(key), &content);
        let object = bucket.head(key).await.unwrap();
        assert_eq!(object.size, 300_000, "{key}");
        let etag = object.etag.as_deref();
        assert!(etag.is_some());
        let whole = bytes(&bucket, key, 0, etag).await;
        assert_eq!(whole, content);
        let mut checker = object.checksums.checker(false);
        checker.update(&whole);
        assert_eq!(checker.finish().unwrap(), ["MD5 (ETag)"]);
        assert_eq!(
            bytes(&bucket, key, 299_000, etag).await,
            &content[299_000..]
        );
    }
    // Another object under the same name is another object.
    let before = bucket.head("plain.tar").await.unwrap();
    server.put("plain.tar", b"other");
    for offset in [0, 1] {
        let changed = bucket
            .read("plain.tar", offset, before.etag.as_deref())
            .await;
        assert!(matches!(changed, Err(S3Error::Changed { .. })));
    }
}

fn url(key: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.');
    key.bytes()
        .map(|b| {
            if plain(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[tokio::test]
async fn refusals_name_no_secret() {
    let Some(server) = Server::start() else {
        return;
    };
    server.put("there", b"content");
    let wrong = bucket(&server, "wrong-and-hidden");
    let error = wrong.head("there").await.unwrap_err();
    let S3Error::Refused { code, asker, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(code.as_deref(), Some("SignatureDoesNotMatch"));
    assert_eq!(asker, "the keys of the daemon's environment");
    assert!(!error.is_temporary());
    for text in ["wrong-and-hidden", SECRET, KEY, "AWS4-HMAC"] {
        assert!(!shown(&error).contains(text), "{text}: {}", shown(&error));
    }
    let read = wrong.read("there", 3, None).await;
    assert!(matches!(read, Err(S3Error::Refused { .. })));

    let nobody = Bucket::of(
        &location("there"),
        &settings(server.endpoint()),
        &Variables::default(),
    );
    let error = nobody.unwrap().head("there").await.unwrap_err();
    assert!(matches!(&error, S3Error::Refused { asker, .. } if asker.contains("no credentials")));

    let right = bucket(&server, SECRET);
    let error = right.head("missing").await.unwrap_err();
    assert!(matches!(error, S3Error::NotFound { .. }), "{error:?}");
    let error = right.read("missing", 0, None).await.unwrap_err();
    assert!(
        matches!(&error, S3Error::NotFound { code: Some(code), .. } if code == "NoSuchKey"),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_there() {
    let endpoint = "http://127.0.0.1:1".to_owned();
    let bucket = Bucket::of(
        &location("x"),
        &settings(endpoint),
        &Variables::keys(SECRET),
    );
    let error = bucket.unwrap().head("x").await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    assert!(shown(&error).contains("refused"), "{}", shown(&error));

    for endpoint in ["127.0.0.1:1", "ftp://x", "http://", "https://me:pw@host"] {
        let made = Bucket::of(
            &location("x"),
            &settings(endpoint.to_owned()),
            &Variables::keys(SECRET),
        );
        let error = made.unwrap_err();
        assert!(matches!(error, S3Error::Endpoint { .. }), "{endpoint}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back() {
    let Some(mut server) = Server::start() else {
        return;
    };
    server.put("there", b"content");
    let bucket = bucket(&server, SECRET);
    let etag = bucket.head("there").await.unwrap().etag;
    server.kill();
    let error = bucket.read("there", 3, etag.as_deref()).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    server.again();
    assert_eq!(bytes(&bucket, "there", 3, etag.as_deref()).await, b"tent");
}
