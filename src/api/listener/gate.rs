//! The byte stream as hyper sees it: replays what was read to tell the protocol, notes what happens on it, bounds
//! stalled writes, and comes back to us when hyper lets go of it, so that a last word can be said on it.
//! Made by `connection`. Must not know requests.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    socket::Stream,
    watch::{Phase, Watch},
};

/// A stream, lent to hyper.
#[derive(Debug)]
pub(super) struct Gate {
    stream: Option<Stream>,
    prefix: Bytes,
    watch: Arc<Watch>,
    http1: bool,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    /// `prefix` is what was already read of `stream`.
    pub(super) fn new(
        stream: Stream,
        prefix: Bytes,
        watch: Arc<Watch>,
        http1: bool,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream: Some(stream),
            prefix,
            watch,
            http1,
            write_timeout,
            stalled: None,
        }
    }

    /// With no request running, the only thing that hyper's HTTP/1 writes is an answer without a body to a head that
    /// it could not parse. It is kept back here: `connection` writes a problem document in its place.
    fn keeps_back(&self, buf: &[u8]) -> bool {
        if !self.http1 || self.watch.phase() == Phase::Busy {
            return false;
        }
        let status = buf
            .get(9..12)
            .and_then(|digits| StatusCode::from_bytes(digits).ok());
        self.watch.refuse(status.unwrap_or(StatusCode::BAD_REQUEST));
        true
    }

    /// Runs one write, and fails it when the client has taken nothing for too long.
    fn poll_within<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if let Poll::Ready(result) = write(Pin::new(stream), cx) {
            self.stalled = None;
            self.watch.wrote();
            return Poll::Ready(result);
        }
        let limit = self.write_timeout;
        ready!(
            self.stalled
                .get_or_insert_with(|| Box::pin(sleep(limit)))
                .as_mut()
                .poll(cx)
        );
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its answer",
        )))
    }
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let length = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.keeps_back(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        self.poll_within(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.first().is_some_and(|first| self.keeps_back(first)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.poll_within(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_within(cx, Stream::poll_flush))?;
        if self.http1 {
            self.watch.flushed();
        }
        Poll::Ready(Ok(()))
    }

    /// Only flushes: how the connection is closed is decided when hyper has given it back.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.watch.give_back(stream);
        }
    }
}
