//! A JSON reader that walks a body in place: no tree, no recursion, no copy of what it passes over.
//!
//! serde's visitors go through f64 for every number and recurse for every list; tensors need the nearest value of
//! their own type, lists of any depth up to a bound, and values that can be passed over now and read later, when the
//! keys that explain them have been seen. What is rare (escapes in strings) is left to `serde_json`.

use std::borrow::Cow;

use super::{
    Limits,
    error::{CodecError, excerpt},
    number::{Decimal, Number},
};

/// A place in a body. Cloning it is how a value is read again.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `body`. A byte order mark is passed over, as RFC 8259 §8.1 allows.
    pub(super) fn new(body: &'a [u8], limits: Limits) -> Self {
        let at = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { bytes: body, at, depth: 0, max_depth: limits.max_depth }
    }

    /// The first byte of what comes next, white space passed over.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, CodecError> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(self.malformed("it ends too early"))
    }

    /// Nothing but white space may be left.
    pub(super) fn end(&mut self) -> Result<(), CodecError> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(self.malformed("characters after its end")),
        }
    }

    /// Enters a list; whether it has a first element, which is then next.
    #[inline]
    pub(super) fn open_list(&mut self) -> Result<bool, CodecError> {
        self.enter(b'[', "expected a list")?;
        if self.peek()? == b']' {
            self.leave();
            return Ok(false);
        }
        Ok(true)
    }

    /// After an element of a list: whether another one follows. The list is left if not.
    #[inline]
    pub(super) fn next_element(&mut self) -> Result<bool, CodecError> {
        match self.peek()? {
            b',' => {
                self.at += 1;
                Ok(true)
            }
            b']' => {
                self.leave();
                Ok(false)
            }
            _ => Err(self.malformed("expected `,` or `]`")),
        }
    }

    /// Enters an object; the key of its first member, whose value is then next.
    pub(super) fn open_object(&mut self) -> Result<Option<Cow<'a, str>>, CodecError> {
        self.enter(b'{', "expected an object")?;
        if self.peek()? == b'}' {
            self.leave();
            return Ok(None);
        }
        self.key().map(Some)
    }

    /// After a member of an object: the key of the next one. The object is left if there is none.
    pub(super) fn next_member(&mut self) -> Result<Option<Cow<'a, str>>, CodecError> {
        match self.peek()? {
            b',' => {
                self.at += 1;
                self.key().map(Some)
            }
            b'}' => {
                self.leave();
                Ok(None)
            }
            _ => Err(self.malformed("expected `,` or `}`")),
        }
    }

    #[inline]
    fn enter(&mut self, opening: u8, otherwise: &'static str) -> Result<(), CodecError> {
        if self.peek()? != opening {
            return Err(self.malformed(otherwise));
        }
        if self.depth == self.max_depth {
            let (line, column) = self.position_of(self.at);
            return Err(CodecError::TooDeep { limit: self.max_depth, line, column });
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    const fn leave(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn key(&mut self) -> Result<Cow<'a, str>, CodecError> {
        if self.peek()? != b'"' {
            return Err(self.malformed("expected a key in double quotes"));
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(self.malformed("expected `:`"));
        }
        self.at += 1;
        Ok(key)
    }

    /// A string; the next byte must be its opening quote.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, CodecError> {
        let opening = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => return Err(self.malformed("a string does not end")),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err(self.malformed("a control character in a string")),
                Some(_) => self.at += 1,
            }
        }
        let inner = &self.bytes[opening + 1..self.at];
        self.at += 1;
        let quoted = &self.bytes[opening..self.at];
        if escaped {
            return serde_json::from_slice(quoted).map(Cow::Owned).map_err(|_| {
                self.malformed_at(opening, "a string with a bad escape or bytes that are not UTF-8")
            });
        }
        match std::str::from_utf8(inner) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(error) => {
                Err(self.malformed_at(opening + 1 + error.valid_up_to(), "bytes that are not UTF-8"))
            }
        }
    }

    /// A number; the next byte must be `-` or a digit.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number<'a>, CodecError> {
        let start = self.at;
        let negative = self.bytes[start] == b'-';
        self.at += usize::from(negative);
        let first = self.at;
        let mut mantissa = 0;
        let mut digits = self.digits(&mut mantissa);
        if digits == 0 {
            return Err(self.malformed(match self.bytes.get(first) {
                Some(b'I') => "Infinity is not a JSON value; send null",
                _ => "expected a digit",
            }));
        }
        if digits > 1 && self.bytes[first] == b'0' {
            return Err(self.malformed_at(first, "a number begins with 0"));
        }
        let mut integer = true;
        let mut exponent = 0;
        if self.bytes.get(self.at) == Some(&b'.') {
            integer = false;
            self.at += 1;
            let fraction = self.some_digits(&mut mantissa)?;
            digits += fraction;
            exponent -= fraction as i64;
        }
        let mut exact = digits <= Decimal::MAX_DIGITS;
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            integer = false;
            self.at += 1;
            let sign = self.bytes.get(self.at).copied();
            self.at += usize::from(matches!(sign, Some(b'+' | b'-')));
            let mut written = 0;
            exact &= self.some_digits(&mut written)? <= 4;
            let written = (written % 10_000) as i64;
            exponent += if sign == Some(b'-') { -written } else { written };
        }
        let decimal = exact.then_some(Decimal { negative, mantissa, exponent });
        Ok(Number { text: &self.bytes[start..self.at], at: start, integer, decimal })
    }

    /// Passes over digits, appending them to `value`, which wraps around; how many they are.
    #[inline]
    fn digits(&mut self, value: &mut u64) -> usize {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            *value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        self.at - start
    }

    #[inline]
    fn some_digits(&mut self, value: &mut u64) -> Result<usize, CodecError> {
        match self.digits(value) {
            0 => Err(self.malformed("expected a digit")),
            digits => Ok(digits),
        }
    }

    /// `true` or `false`; the next byte must be the first of one of them.
    pub(super) fn boolean(&mut self) -> Result<bool, CodecError> {
        let value = self.bytes[self.at] == b't';
        self.literal(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// `null`, or an error.
    pub(super) fn null(&mut self) -> Result<(), CodecError> {
        self.literal("null")
    }

    fn literal(&mut self, word: &'static str) -> Result<(), CodecError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.not_a_value());
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes over one value of any kind, which is checked for being well-formed.
    pub(super) fn skip(&mut self) -> Result<(), CodecError> {
        let mut lists = Vec::new();
        loop {
            match self.peek()? {
                b'[' => {
                    if self.open_list()? {
                        lists.push(true);
                        continue;
                    }
                }
                b'{' => {
                    if self.open_object()?.is_some() {
                        lists.push(false);
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b'-' | b'0'..=b'9' => drop(self.number()?),
                b't' | b'f' => drop(self.boolean()?),
                b'n' => self.null()?,
                _ => return Err(self.not_a_value()),
            }
            while let Some(list) = lists.last() {
                let more = if *list { self.next_element()? } else { self.next_member()?.is_some() };
                if more {
                    break;
                }
                lists.pop();
            }
            if lists.is_empty() {
                return Ok(());
            }
        }
    }

    /// The first byte of the first element of the list that comes next; `None` if that is no list or empty.
    pub(super) fn peek_into_list(&self) -> Option<u8> {
        let mut ahead = self.clone();
        match ahead.open_list() {
            Ok(true) => ahead.peek().ok(),
            _ => None,
        }
    }

    /// What kind of value comes next, for messages; an error if that is none.
    #[cold]
    pub(super) fn describe(&mut self) -> Result<String, CodecError> {
        Ok(match self.peek()? {
            b'[' => "a list".to_owned(),
            b'{' => "an object".to_owned(),
            b'"' => "a string".to_owned(),
            b't' | b'f' => self.clone().boolean()?.to_string(),
            b'n' => {
                self.clone().null()?;
                "null".to_owned()
            }
            b'-' | b'0'..=b'9' => excerpt(self.clone().number()?.text()).into_owned(),
            _ => return Err(self.not_a_value()),
        })
    }

    #[cold]
    fn not_a_value(&self) -> CodecError {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") {
            return self.malformed("NaN and Infinity are not JSON values; send null");
        }
        self.malformed("expected a value")
    }

    #[cold]
    fn malformed(&self, reason: &'static str) -> CodecError {
        self.malformed_at(self.at, reason)
    }

    #[cold]
    fn malformed_at(&self, at: usize, reason: &'static str) -> CodecError {
        let (line, column) = self.position_of(at);
        CodecError::Json { reason: Cow::Borrowed(reason), line, column }
    }

    /// The element that comes next does not fit; the caller adds which tensor it belongs to.
    #[cold]
    pub(super) fn misfit(&self, path: String, reason: String) -> CodecError {
        self.misfit_at(self.at, path, reason)
    }

    /// The element at `at` does not fit.
    #[cold]
    pub(super) fn misfit_at(&self, at: usize, path: String, reason: String) -> CodecError {
        let (line, column) = self.position_of(at);
        CodecError::Element { name: String::new(), path, reason, line, column }
    }

    /// Line and column of a place, both from 1; columns count bytes.
    fn position_of(&self, at: usize) -> (usize, usize) {
        let before = &self.bytes[..at.min(self.bytes.len())];
        let mut line = 1;
        let mut line_start = 0;
        for (at, byte) in before.iter().enumerate() {
            if *byte == b'\n' {
                line += 1;
                line_start = at + 1;
            }
        }
        (line, before.len() - line_start + 1)
    }
}
