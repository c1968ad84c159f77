//! The check that asks a Redis server: AUTH, PING, and its role.
//!
//! The little of the protocol (RESP) that these three answers need is read here, with limits: a client library would bring
//! a connection of its own, without our deadline and our TLS.

use pierhead_config::RedisCheck;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::CheckError;

/// The longest answer that is read. That to ROLE names every replica.
const ANSWER: usize = 64 * 1024;

/// How deep lists lie in lists.
const DEPTH: usize = 4;

/// How much of an error is worth a line in the log.
const EXCERPT: usize = 80;

/// What a Redis server said instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedisError {
    /// It closed the connection.
    #[error("connection closed")]
    Closed,
    /// Not an answer of this protocol, or too long a one.
    #[error("not an answer of a Redis server")]
    Malformed,
    /// It does not take the password. What it says of that may repeat what it was sent, so only the code is kept.
    #[error("AUTH refused ({0})")]
    Refused(String),
    /// An error.
    #[error("{0}")]
    Error(String),
    /// It is not the primary.
    #[error("its role is {0}")]
    Role(String),
}

/// Asks over a fresh connection.
pub(super) async fn ask<S>(stream: S, check: &RedisCheck) -> Result<(), CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session { stream, read: Vec::new() };
    if let Some(credentials) = &check.credentials {
        let (user, password) = (credentials.username.as_str(), credentials.password.reveal());
        let answer = if user.is_empty() {
            session.call(&["AUTH", password]).await?
        } else {
            session.call(&["AUTH", user, password]).await?
        };
        match answer {
            Answer::Text(_) => {}
            Answer::Error(text) => return Err(RedisError::Refused(code(&text)).into()),
            Answer::List(_) | Answer::Other => return Err(RedisError::Malformed.into()),
        }
    }
    match session.call(&["PING"]).await? {
        Answer::Text(text) if text == "PONG" => {}
        Answer::Error(text) => return Err(RedisError::Error(excerpt(&text)).into()),
        Answer::Text(_) | Answer::List(_) | Answer::Other => return Err(RedisError::Malformed.into()),
    }
    if !check.primary {
        return Ok(());
    }
    match session.call(&["ROLE"]).await? {
        Answer::List(items) => match items.first() {
            Some(Answer::Text(role)) if role == "master" => Ok(()),
            Some(Answer::Text(role)) => Err(RedisError::Role(excerpt(role)).into()),
            _ => Err(RedisError::Malformed.into()),
        },
        Answer::Error(text) => Err(RedisError::Error(excerpt(&text)).into()),
        Answer::Text(_) | Answer::Other => Err(RedisError::Malformed.into()),
    }
}

/// The code at the beginning of an error, such as `WRONGPASS`.
fn code(text: &str) -> String {
    text.chars().take_while(char::is_ascii_uppercase).take(EXCERPT).collect()
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(EXCERPT).collect()
}

struct Session<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn call(&mut self, words: &[&str]) -> Result<Answer, CheckError> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        loop {
            if let Some((answer, rest)) = parse(&self.read, DEPTH)? {
                self.read = rest.to_vec();
                return Ok(answer);
            }
            if self.read.len() >= ANSWER {
                return Err(RedisError::Malformed.into());
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part).await? {
                0 => return Err(RedisError::Closed.into()),
                read => self.read.extend_from_slice(&part[..read]),
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// A simple or a bulk string.
    Text(String),
    /// An error.
    Error(String),
    /// A list.
    List(Vec<Answer>),
    /// A number, or nothing.
    Other,
}

/// An answer and what follows it; `None`: it is not whole yet.
fn parse(bytes: &[u8], depth: usize) -> Result<Option<(Answer, &[u8])>, RedisError> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else { return Ok(None) };
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    let Some((kind, line)) = line.split_first() else { return Err(RedisError::Malformed) };
    let text = || String::from_utf8_lossy(line).into_owned();
    let number = || std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok());
    match kind {
        b'+' => Ok(Some((Answer::Text(text()), rest))),
        b'-' => Ok(Some((Answer::Error(text()), rest))),
        b':' | b'_' | b'#' | b',' => Ok(Some((Answer::Other, rest))),
        b'$' => match number() {
            Some(-1) => Ok(Some((Answer::Other, rest))),
            Some(length) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= ANSWER);
                let length = length.ok_or(RedisError::Malformed)?;
                let Some(content) = rest.get(..length) else { return Ok(None) };
                let Some(ending) = rest.get(length..length + 2) else { return Ok(None) };
                if ending != b"\r\n" {
                    return Err(RedisError::Malformed);
                }
                let text = String::from_utf8_lossy(content).into_owned();
                Ok(Some((Answer::Text(text), &rest[length + 2..])))
            }
            None => Err(RedisError::Malformed),
        },
        b'*' if depth > 0 => {
            let Some(count) = number() else { return Err(RedisError::Malformed) };
            let (mut items, mut rest) = (Vec::new(), rest);
            // Each takes some bytes, so what is read limits how many there are.
            for _ in 0..count {
                let Some((item, after)) = parse(rest, depth - 1)? else { return Ok(None) };
                items.push(item);
                rest = after;
            }
            Ok(Some((Answer::List(items), rest)))
        }
        _ => Err(RedisError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Answer {
        Answer::Text(text.to_owned())
    }

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let role = "*3\r\n$6\r\nmaster\r\n:3129659\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$7\r\n3129242\r\n";
        let replica = Answer::List(vec![text("127.0.0.1"), text("9001"), text("3129242")]);
        for (bytes, expected) in [
            ("+PONG\r\n", text("PONG")),
            ("$4\r\nPONG\r\n", text("PONG")),
            ("$-1\r\n", Answer::Other),
            ("-ERR no\r\n", Answer::Error("ERR no".to_owned())),
            ("*0\r\n", Answer::List(vec![])),
            ("*-1\r\n", Answer::List(vec![])),
            (role, Answer::List(vec![text("master"), Answer::Other, Answer::List(vec![replica])])),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes.as_bytes()[..end], DEPTH), Ok(None), "{bytes:?} up to {end}");
            }
            let more = format!("{bytes}+MORE");
            assert_eq!(parse(more.as_bytes(), DEPTH), Ok(Some((expected, &b"+MORE"[..]))), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_and_not_waited_for() {
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            "$x\r\n",
            "$-2\r\n",
            "$99999999999\r\n",
            "$1\r\nxyz",
            "*x\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert_eq!(parse(bytes.as_bytes(), DEPTH), Err(RedisError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn an_error_never_tells_what_was_sent() {
        let echo = "ERR unknown command 'AUTH', with args beginning with: 'quay' 'secret'";
        assert_eq!(RedisError::Refused(code(echo)).to_string(), "AUTH refused (ERR)");
        assert_eq!(code("WRONGPASS invalid username-password pair"), "WRONGPASS");
        assert_eq!(excerpt("a\r\n\u{7}b"), "ab");
    }
}
