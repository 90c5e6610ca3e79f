//! A port that can be closed and opened again while connections are awaited on it.
//!
//! In: a port number or a listener. Out: connections, while it is open.
//! Always: closed means closed when [`Front::close`] returns, so that somebody else can have the port.
//! Touches: TCP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A port that may be closed.
#[derive(Debug)]
pub(crate) struct Front {
    listener: Mutex<Option<TcpListener>>,
    opened: Notify,
}

impl Front {
    pub(crate) fn closed() -> Self {
        Self { listener: Mutex::default(), opened: Notify::new() }
    }

    pub(crate) fn with(listener: TcpListener) -> Self {
        Self { listener: Mutex::new(Some(listener)), opened: Notify::new() }
    }

    pub(crate) fn open(&self, listener: TcpListener) {
        *self.lock() = Some(listener);
        self.opened.notify_one();
    }

    pub(crate) fn close(&self) {
        drop(self.lock().take());
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// The next connection, as soon as the port is open and one comes. For one caller.
    ///
    /// # Errors
    /// Of the accept.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let accept = poll_fn(|context| match &*self.lock() {
                Some(listener) => listener.poll_accept(context),
                None => Poll::Pending,
            });
            tokio::select! {
                accepted = accept => return accepted,
                () = self.opened.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.listener.lock().expect("no holder of this lock panics")
    }
}
