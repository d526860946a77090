//! A machine's own credentials: a metadata service on loopback that counts who asks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_s3::{Bucket, Location, Settings};

use crate::server::{BUCKET, KEY, SECRET, Server};
use crate::{Variables, settings};

/// Answers as EC2's metadata service, version 2, and counts.
fn service() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            for line in lines.map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
            }
            let body = if first.starts_with("PUT /latest/api/token") {
                "a-token".to_owned()
            } else if first.contains("security-credentials/role") {
                format!(
                    r#"{{"AccessKeyId":"{KEY}","SecretAccessKey":"{SECRET}","Token":"","Expiration":"2999-01-01T00:00:00Z"}}"#
                )
            } else {
                "role".to_owned()
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    (endpoint, asked)
}

#[tokio::test]
async fn asked_only_on_the_operators_word() {
    let Some(server) = Server::start() else {
        return;
    };
    server.put("there", b"content");
    let (endpoint, asked) = service();
    let mut host = Variables::default();
    host.0.insert("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint);
    let location: Location = format!("s3://{BUCKET}/there").parse().unwrap();
    let without = settings(server.endpoint());
    let with = Settings {
        instance: true,
        ..without.clone()
    };
    let bucket = Bucket::of(&location, &without, &host).unwrap();
    assert!(bucket.head("there").await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let bucket = Bucket::of(&location, &with, &host).unwrap();
    assert_eq!(bucket.head("there").await.unwrap().size, 7);
    assert!(asked.load(Ordering::SeqCst) > 0);
}
