//! The accept loop: bounded connections with timeouts, and a shutdown that lets requests finish.
//!
//! It drives hyper itself: `axum::serve` sets no timer, so a client that never finishes its request head would hold a
//! connection forever.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::EventsApp;
use super::app::App;
use super::routes::{events_router, router};
use crate::{Queue, ServingConfig};

/// Pause after a failed accept. The usual cause is a lack of file descriptors, and an immediate retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the port cannot be served.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
}

impl ServeError {
    /// What to do, for the hint under the message.
    pub fn hint(&self) -> &'static str {
        let ServeError::Bind { source, .. } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there: stop it or choose another port; port 0 picks a free one"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: use one of its own",
            _ => "the address is host:port, as 127.0.0.1:8080",
        }
    }
}

/// Listens on `address`, given as `host:port`.
///
/// # Errors
/// [`ServeError::Bind`], which names the address.
pub async fn bind(address: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind {
            address: address.to_owned(),
            source,
        })
}

/// Serves the scoring port until `shutdown` completes.
///
/// Then it accepts no more connections, answers requests in flight for at most [`ServingConfig::shutdown_grace`], closes the
/// connections, and closes the queue, which ends the workers. Dropping this future closes the queue too.
///
/// [`ServingConfig::shutdown_grace`]: crate::ServingConfig::shutdown_grace
///
/// # Errors
/// None today: a failed accept is logged and retried.
pub async fn serve(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let _closes = CloseOnDrop(Arc::clone(&app.queue));
    let config = app.config.clone();
    serve_routes(listener, router(app), &config, shutdown).await
}

/// Serves a port that takes events alone until `shutdown` completes. Ends as [`serve`] does.
///
/// # Errors
/// None today: a failed accept is logged and retried.
pub async fn serve_events(
    listener: TcpListener,
    app: EventsApp,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let config = app.config.clone();
    serve_routes(listener, events_router(app), &config, shutdown).await
}

async fn serve_routes(
    listener: TcpListener,
    routes: Router,
    config: &ServingConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = TowerToHyperService::new(routes);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout.duration());

    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let has_room = connections.len() < config.max_connections;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_end(ended),
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    // A reply is one small write; waiting to merge writes would only add latency.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                    connections.spawn(graceful.watch(connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if tokio::time::timeout(config.shutdown_grace.duration(), graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            n_connections = connections.len(),
            "shutdown cut connections with requests in flight"
        );
    }
    connections.shutdown().await;
    Ok(())
}

fn log_end(ended: Result<Result<(), hyper::Error>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        // The client went away or sent nonsense, which is not this server's failure.
        Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
        Err(error) => tracing::error!(%error, "connection task failed"),
    }
}

/// Closes the queue however the server ends, so that the workers always end too.
struct CloseOnDrop(Arc<Queue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
