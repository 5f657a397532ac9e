//! A NATS client that sends any bytes, as no library does.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// A connection to nats-server, byte by byte.
pub struct RawClient {
    stream: TcpStream,
    /// Bytes that came and were not read yet.
    buffer: Vec<u8>,
    inbox: String,
    sent: usize,
    /// Messages that came while something else was waited for.
    messages: VecDeque<RawMessage>,
    /// What the server refused, in its words.
    errors: Vec<String>,
}

/// A message, byte by byte.
#[derive(Clone, Debug)]
pub struct RawMessage {
    pub subject: Vec<u8>,
    /// Empty where there is none.
    pub reply: Vec<u8>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl RawMessage {
    /// Returns the value of a header; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.headers);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    /// Returns the `code` of an outcome or an error; empty where there is none.
    #[must_use]
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl RawClient {
    /// Connects as the user of the URL, `nats://user:password@host:port`, and subscribes to its
    /// inbox.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn connect(url: &str) -> Self {
        let (user, address) = url.trim_start_matches("nats://").split_once('@').expect("a user");
        let (user, password) = user.split_once(':').expect("a password");
        let stream = TcpStream::connect(address).await.expect("a server");
        stream.set_nodelay(true).expect("a socket");
        let inbox = format!("_INBOX.{user}.{}", uuid::Uuid::now_v7().simple());
        let (buffer, messages, errors) = (Vec::new(), VecDeque::new(), Vec::new());
        let mut raw = Self { stream, buffer, inbox, sent: 0, messages, errors };
        let connect = serde_json::json!({
            "verbose": false, "pedantic": false, "user": user, "pass": password,
            "headers": true, "no_responders": true, "protocol": 1,
        });
        let connect = format!("CONNECT {connect}\r\nSUB {}.* 1\r\nPING\r\n", raw.inbox);
        raw.write(connect.as_bytes()).await;
        while raw.line().await != b"PONG" {}
        raw
    }

    /// Returns a new inbox that this connection is subscribed to.
    pub fn inbox(&mut self) -> Vec<u8> {
        self.sent += 1;
        format!("{}.{}", self.inbox, self.sent).into_bytes()
    }

    /// Publishes. `headers` is the whole header block.
    pub async fn publish(&mut self, subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) {
        let reply = if reply.is_empty() { Vec::new() } else { [reply, b" "].concat() };
        let total = headers.len() + payload.len();
        let mut frame = if headers.is_empty() {
            [b"PUB ", subject, b" ", &reply, format!("{total}\r\n").as_bytes()].concat()
        } else {
            let sizes = format!("{} {total}\r\n", headers.len());
            [b"HPUB ", subject, b" ", &reply, sizes.as_bytes(), headers].concat()
        };
        frame.extend_from_slice(payload);
        frame.extend_from_slice(b"\r\n");
        self.write(&frame).await;
    }

    /// Publishes and waits for the first answer.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn request(&mut self, subject: &[u8], headers: &[u8], payload: &[u8]) -> RawMessage {
        let inbox = self.inbox();
        self.publish(subject, &inbox, headers, payload).await;
        loop {
            let message = self.next().await;
            if message.subject == inbox {
                return message;
            }
        }
    }

    /// Subscribes to a subject, or to `subject group` in a queue group, if the server takes it.
    pub async fn subscribe(&mut self, subject: &[u8]) {
        self.sent += 1;
        let sid = format!(" {}\r\n", self.sent + 1);
        self.write(&[b"SUB ", subject, sid.as_bytes()].concat()).await;
    }

    /// Returns the next message.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn next(&mut self) -> RawMessage {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            self.operation().await;
        }
    }

    /// Waits until the server has taken everything that was sent; returns the messages until then.
    pub async fn flush(&mut self) -> Vec<RawMessage> {
        self.write(b"PING\r\n").await;
        while !self.operation().await {}
        self.messages.drain(..).collect()
    }

    /// Returns what the server has refused until it has taken everything that was sent, in its
    /// words and in order. Messages stay for [`next`](Self::next).
    pub async fn refused(&mut self) -> Vec<String> {
        self.write(b"PING\r\n").await;
        while !self.operation().await {}
        std::mem::take(&mut self.errors)
    }

    /// Reads one operation; returns whether it is a PONG.
    async fn operation(&mut self) -> bool {
        let line = self.line().await;
        let mut words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let number = |word: Option<&[u8]>| {
            let word = word.and_then(|word| std::str::from_utf8(word).ok());
            word.and_then(|word| word.parse::<usize>().ok()).expect("a number")
        };
        let with_headers = match words[0] {
            b"MSG" => false,
            b"HMSG" => true,
            b"PING" => {
                self.write(b"PONG\r\n").await;
                return false;
            }
            b"-ERR" => {
                self.errors.push(String::from_utf8_lossy(&line).into_owned());
                return false;
            }
            // Such as an INFO.
            name => return name == b"PONG",
        };
        let total = number(words.pop());
        let headers = if with_headers { number(words.pop()) } else { 0 };
        let (subject, reply) = (words[1].to_vec(), words.get(3).map(|reply| reply.to_vec()));
        let headers = self.take(headers).await;
        let payload = self.take(total - headers.len()).await;
        self.take(2).await;
        let reply = reply.unwrap_or_default();
        self.messages.push_back(RawMessage { subject, reply, headers, payload });
        false
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    async fn line(&mut self) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer[..at].to_vec();
                self.buffer.drain(..at + 2);
                return line;
            }
            self.fill().await;
        }
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            self.fill().await;
        }
        self.buffer.drain(..length).collect()
    }

    async fn fill(&mut self) {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.expect("an answer in time").expect("a connection");
        assert!(read > 0, "nats-server closed the connection");
    }
}
