//! Asking the guest over the network, from the host.

use std::net::SocketAddr;

use hearth_types::spec::health::StatusRange;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::probe::Outcome;

/// The longest head of an answer that is taken, in bytes. Its body is not read at all.
const HEAD_MAX: usize = 16 << 10;

/// Good if a connection is accepted.
pub(super) async fn tcp(address: SocketAddr) -> Outcome {
    match TcpStream::connect(address).await {
        Ok(_) => Outcome::pass(format!("{address} accepts connections")),
        Err(error) => refused(address, &error),
    }
}

fn refused(address: SocketAddr, error: &std::io::Error) -> Outcome {
    let outcome = Outcome::of_error(error);
    Outcome {
        message: format!("{address} cannot be connected to: {}", outcome.message),
        ..outcome
    }
}

/// Good if the answer's status is one of these.
pub(super) async fn http(address: SocketAddr, path: &str, good: StatusRange) -> Outcome {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return refused(address, &error),
    };
    match ask(stream, address, path).await {
        Ok(status) if (good.from..=good.to).contains(&status) => {
            Outcome::pass(format!("it answers with {status}"))
        }
        Ok(status) => Outcome::fail(format!("it answers with {status}, good is {good}")),
        Err(error) => Outcome::fail(format!("http://{address}{path}: {error:#}")),
    }
}

async fn ask(stream: TcpStream, address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(
            USER_AGENT,
            concat!("hearth-health/", env!("CARGO_PKG_VERSION")),
        )
        .header(CONNECTION, "close")
        .body(String::new())?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            // The last thing that it did may have been to hand the answer over.
            answer.await
        }
    };
    Ok(answer?.status().as_u16())
}

#[cfg(test)]
mod tests;
