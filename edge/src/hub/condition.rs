//! The conditions of routes: the part of Azure IoT Hub's query language that routes use. Comparisons, `AND`, `OR`,
//! `NOT`, a few functions, over `$body`, the sender's properties and the system's.
//!
//! What is not there is *undefined*: a comparison with it is undefined too, and only true lets a message through.
//!
//! The same language says which devices are meant, over `tags`, `properties` and `deviceId`: [`DeviceCondition`].

use std::{borrow::Cow, cell::OnceCell, str::FromStr};

use serde_json::Value;
use thiserror::Error;

use super::{identity::ClientId, properties::Properties};

/// Levels of parentheses, and of `NOT`.
const DEEPEST: usize = 32;

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConditionError {
    #[error("unexpected `{found}` at character {at}; expected {expected}")]
    Unexpected { found: String, at: usize, expected: &'static str },
    #[error("the text that begins at character {0} does not end")]
    OpenText(usize),
    #[error(
        "`{0}` is no function of conditions; there are IS_DEFINED, IS_NULL, IS_BOOL, IS_NUMBER, IS_STRING, IS_ARRAY, IS_OBJECT, STARTS_WITH, ENDS_WITH, CONTAINS and AS_NUMBER"
    )]
    Function(String),
    #[error("`{name}` takes {takes} values")]
    Arguments { name: String, takes: usize },
    #[error(
        "`{0}` is no system property; there are $body, $messageId, $correlationId, $userId, $contentType, $contentEncoding, $connectionDeviceId, $connectionModuleId and $outputName"
    )]
    System(String),
    #[error("the condition has more than {DEEPEST} levels")]
    TooDeep,
}

/// What a condition is about: one message, or one device.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    message: Option<(&'a ClientId, &'a Properties, &'a [u8])>,
    /// Of a message it is read when it is first asked for.
    body: OnceCell<Option<Cow<'a, Value>>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(sender: &'a ClientId, properties: &'a Properties, payload: &'a [u8]) -> Self {
        Self { message: Some((sender, properties, payload)), body: OnceCell::new() }
    }

    fn of_device(device: &'a Value) -> Self {
        Self { message: None, body: OnceCell::from(Some(Cow::Borrowed(device))) }
    }

    fn sender(&self) -> Option<&ClientId> {
        self.message.map(|(sender, _, _)| sender)
    }

    fn properties(&self) -> Option<&Properties> {
        self.message.map(|(_, properties, _)| properties)
    }

    fn body(&self) -> Option<&Value> {
        let read = || {
            let (_, _, payload) = self.message?;
            serde_json::from_slice(payload).ok().map(Cow::Owned)
        };
        self.body.get_or_init(read).as_deref()
    }
}

/// A condition of a route that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition(Expression);

/// Which devices are meant, as Azure IoT Hub's automatic deployments write it: `tags.site = 'lyon' AND tags.gpu = true`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceCondition(Expression);

impl DeviceCondition {
    /// Whether it is true of a device: an object with `deviceId`, `tags` and `properties` (`desired` and `reported`).
    pub fn holds(&self, device: &Value) -> bool {
        self.0.value(&Facts::of_device(device)) == Some(Value::Bool(true))
    }
}

impl FromStr for DeviceCondition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        parse(text, About::Device).map(Self)
    }
}

/// What a condition that is read is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Message,
    Device,
}

#[derive(Clone, Debug, PartialEq)]
enum Expression {
    Literal(Option<Value>),
    Body(Vec<Step>),
    System(System),
    Property(String),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Compare(Comparison, Box<Expression>, Box<Expression>),
    Call(Function, Vec<Expression>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// A short name of the property bag.
    Sent(&'static str),
    Device,
    Module,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    IsDefined,
    IsNull,
    IsBool,
    IsNumber,
    IsString,
    IsArray,
    IsObject,
    StartsWith,
    EndsWith,
    Contains,
    AsNumber,
}

impl Function {
    const ALL: [(&str, Self); 11] = [
        ("IS_DEFINED", Self::IsDefined),
        ("IS_NULL", Self::IsNull),
        ("IS_BOOL", Self::IsBool),
        ("IS_NUMBER", Self::IsNumber),
        ("IS_STRING", Self::IsString),
        ("IS_ARRAY", Self::IsArray),
        ("IS_OBJECT", Self::IsObject),
        ("STARTS_WITH", Self::StartsWith),
        ("ENDS_WITH", Self::EndsWith),
        ("CONTAINS", Self::Contains),
        ("AS_NUMBER", Self::AsNumber),
    ];

    const fn takes(self) -> usize {
        match self {
            Self::StartsWith | Self::EndsWith | Self::Contains => 2,
            _ => 1,
        }
    }
}

impl Condition {
    /// Whether it is true of the message.
    pub(crate) fn holds(&self, facts: &Facts<'_>) -> bool {
        self.0.value(facts) == Some(Value::Bool(true))
    }
}

impl Expression {
    fn value(&self, facts: &Facts<'_>) -> Option<Value> {
        match self {
            Self::Literal(value) => value.clone(),
            Self::Body(steps) => {
                let body = facts.body()?;
                let end = steps.iter().try_fold(body, |value, step| match step {
                    Step::Name(name) => value.get(name),
                    Step::Index(idx) => value.get(idx),
                });
                end.cloned()
            }
            Self::System(System::Device) => facts.sender().map(|sender| sender.device_name().into()),
            Self::System(System::Module) => facts.sender()?.module_name().map(Value::from),
            Self::System(System::Sent(name)) => facts.properties()?.system(name).map(Value::from),
            Self::Property(name) => facts
                .properties()?
                .all_own()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.into()),
            Self::Not(inner) => truth(inner, facts).map(|truth| Value::Bool(!truth)),
            Self::And(left, right) => match (truth(left, facts), truth(right, facts)) {
                (Some(false), _) | (_, Some(false)) => Some(false.into()),
                (Some(true), Some(true)) => Some(true.into()),
                _ => None,
            },
            Self::Or(left, right) => match (truth(left, facts), truth(right, facts)) {
                (Some(true), _) | (_, Some(true)) => Some(true.into()),
                (Some(false), Some(false)) => Some(false.into()),
                _ => None,
            },
            Self::Compare(comparison, left, right) => {
                compare(*comparison, &left.value(facts)?, &right.value(facts)?).map(Value::Bool)
            }
            Self::Call(function, arguments) => call(*function, arguments, facts),
        }
    }
}

fn truth(expression: &Expression, facts: &Facts<'_>) -> Option<bool> {
    expression.value(facts)?.as_bool()
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Option<bool> {
    use std::cmp::Ordering;
    let ordering = match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => Some(ordering.map_or_else(|| left == right, Ordering::is_eq)),
        Comparison::Unequal => Some(ordering.map_or_else(|| left != right, Ordering::is_ne)),
        Comparison::Less => ordering.map(Ordering::is_lt),
        Comparison::LessOrEqual => ordering.map(Ordering::is_le),
        Comparison::Greater => ordering.map(Ordering::is_gt),
        Comparison::GreaterOrEqual => ordering.map(Ordering::is_ge),
    }
}

fn call(function: Function, arguments: &[Expression], facts: &Facts<'_>) -> Option<Value> {
    let first = arguments.first().and_then(|argument| argument.value(facts));
    let is = |test: fn(&Value) -> bool| Some(Value::Bool(first.as_ref().is_some_and(test)));
    let texts = |test: fn(&str, &str) -> bool| {
        let second = arguments.get(1).and_then(|argument| argument.value(facts))?;
        Some(Value::Bool(test(first.as_ref()?.as_str()?, second.as_str()?)))
    };
    match function {
        Function::IsDefined => is(|_| true),
        Function::IsNull => is(Value::is_null),
        Function::IsBool => is(Value::is_boolean),
        Function::IsNumber => is(Value::is_number),
        Function::IsString => is(Value::is_string),
        Function::IsArray => is(Value::is_array),
        Function::IsObject => is(Value::is_object),
        Function::StartsWith => texts(|text, part| text.starts_with(part)),
        Function::EndsWith => texts(|text, part| text.ends_with(part)),
        Function::Contains => texts(|text, part| text.contains(part)),
        Function::AsNumber => match first? {
            number @ Value::Number(_) => Some(number),
            Value::String(text) => {
                let number = text.trim().parse::<f64>().ok()?;
                serde_json::Number::from_f64(number).map(Value::Number)
            }
            _ => None,
        },
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        parse(text, About::Message).map(Self)
    }
}

fn parse(text: &str, about: About) -> Result<Expression, ConditionError> {
    let mut parser = Parser { text, about, at: 0, depth: 0 };
    let expression = parser.or()?;
    parser.space();
    if parser.rest().is_empty() { Ok(expression) } else { Err(parser.unexpected("AND, OR or the end")) }
}

struct Parser<'a> {
    text: &'a str,
    about: About,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn unexpected(&self, expected: &'static str) -> ConditionError {
        let found = self.rest().chars().take(16).collect::<String>();
        let found = if found.is_empty() { "the end".to_owned() } else { found };
        ConditionError::Unexpected { found, at: self.text[..self.at].chars().count() + 1, expected }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn word(&mut self, word: &str) -> bool {
        self.space();
        let Some((front, behind)) = self.rest().split_at_checked(word.len()) else { return false };
        let there = front.eq_ignore_ascii_case(word) && !behind.starts_with(in_name);
        if there {
            self.at += word.len();
        }
        there
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, ConditionError>,
    ) -> Result<T, ConditionError> {
        self.depth += 1;
        let parsed = if self.depth > DEEPEST { Err(ConditionError::TooDeep) } else { parse(self) };
        self.depth -= 1;
        parsed
    }

    fn or(&mut self) -> Result<Expression, ConditionError> {
        let mut left = self.and()?;
        while self.word("OR") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, ConditionError> {
        let mut left = self.not()?;
        while self.word("AND") {
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression, ConditionError> {
        if self.word("NOT") {
            return self.deeper(|parser| Ok(Expression::Not(Box::new(parser.not()?))));
        }
        let left = self.operand()?;
        self.space();
        for (sign, comparison) in [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<>", Comparison::Unequal),
            ("!=", Comparison::Unequal),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ] {
            if self.eat(sign) {
                return Ok(Expression::Compare(comparison, Box::new(left), Box::new(self.operand()?)));
            }
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expression, ConditionError> {
        const EXPECTED: &str = "a value, a property or a function";
        if self.eat("(") {
            let inner = self.deeper(Self::or)?;
            return if self.eat(")") { Ok(inner) } else { Err(self.unexpected("`)`")) };
        }
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            Some('0'..='9' | '-' | '.') => self.number(),
            Some('$') if self.about == About::Message => self.system(),
            Some('{') if self.about == About::Message => {
                self.at += 1;
                let inner = self.name();
                if inner.is_empty() || !self.eat("}") {
                    return Err(self.unexpected("the name of a property and `}`"));
                }
                Ok(Expression::Property(inner))
            }
            Some(c) if in_name(c) => self.named(),
            _ => Err(self.unexpected(EXPECTED)),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Expression, ConditionError> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((offset, c)) = chars.next() {
            if c == '\\' {
                text.extend(chars.next().map(|(_, escaped)| escaped));
            } else if c != quote {
                text.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
                // Twice for once.
                text.extend(chars.next().map(|(_, escaped)| escaped));
            } else {
                self.at = start + offset + c.len_utf8();
                return Ok(Expression::Literal(Some(text.into())));
            }
        }
        Err(ConditionError::OpenText(self.text[..start].chars().count() + 1))
    }

    fn number(&mut self) -> Result<Expression, ConditionError> {
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let length = self.rest().find(|c| !digits(c)).unwrap_or(self.rest().len());
        let number = self.rest()[..length].parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        let number = number.ok_or_else(|| self.unexpected("a number"))?;
        self.at += length;
        Ok(Expression::Literal(Some(Value::Number(number))))
    }

    fn name(&mut self) -> String {
        let length = self.rest().find(|c| !in_name(c)).unwrap_or(self.rest().len());
        let name = self.rest()[..length].to_owned();
        self.at += length;
        name
    }

    fn system(&mut self) -> Result<Expression, ConditionError> {
        self.at += 1;
        let name = self.name();
        let system = match name.to_ascii_lowercase().as_str() {
            "body" => return self.steps().map(Expression::Body),
            "messageid" => System::Sent("mid"),
            "correlationid" => System::Sent("cid"),
            "userid" => System::Sent("uid"),
            "contenttype" => System::Sent("ct"),
            "contentencoding" => System::Sent("ce"),
            "outputname" => System::Sent("on"),
            "connectiondeviceid" => System::Device,
            "connectionmoduleid" => System::Module,
            _ => return Err(ConditionError::System(format!("${name}"))),
        };
        Ok(Expression::System(system))
    }

    fn steps(&mut self) -> Result<Vec<Step>, ConditionError> {
        let mut steps = Vec::new();
        loop {
            if self.rest().starts_with('.') {
                self.at += 1;
                let name = self.name();
                if name.is_empty() {
                    return Err(self.unexpected("the name of a property"));
                }
                steps.push(Step::Name(name));
            } else if self.rest().starts_with('[') {
                self.at += 1;
                let inner = self.rest().split(']').next().unwrap_or_default().trim().to_owned();
                let idx = inner.parse().map_err(|_| self.unexpected("the number of an item and `]`"))?;
                if !self.rest().contains(']') {
                    return Err(self.unexpected("`]`"));
                }
                self.at += self.rest().find(']').unwrap_or(0) + 1;
                steps.push(Step::Index(idx));
            } else {
                return Ok(steps);
            }
        }
    }

    fn named(&mut self) -> Result<Expression, ConditionError> {
        let start = self.at;
        let name = self.name();
        match name.to_ascii_lowercase().as_str() {
            "true" => return Ok(Expression::Literal(Some(true.into()))),
            "false" => return Ok(Expression::Literal(Some(false.into()))),
            "null" => return Ok(Expression::Literal(Some(Value::Null))),
            "undefined" => return Ok(Expression::Literal(None)),
            "and" | "or" | "not" => {
                self.at = start;
                return Err(self.unexpected("a value, a property or a function"));
            }
            _ => {}
        }
        if self.about == About::Device && !self.rest().trim_start().starts_with('(') {
            let root = match name.to_ascii_lowercase().as_str() {
                "deviceid" => return Ok(Expression::Body(vec![Step::Name("deviceId".to_owned())])),
                "tags" => "tags",
                "properties" => "properties",
                _ => {
                    self.at = start;
                    return Err(
                        self.unexpected("`tags.…`, `properties.…`, `deviceId`, a value or a function")
                    );
                }
            };
            let mut steps = self.steps()?;
            steps.insert(0, Step::Name(root.to_owned()));
            return Ok(Expression::Body(steps));
        }
        if !self.eat("(") {
            return Ok(Expression::Property(name));
        }
        let function = Function::ALL
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(&name))
            .map(|(_, function)| *function)
            .ok_or_else(|| ConditionError::Function(name.clone()))?;
        let arguments = self.deeper(|parser| {
            let mut arguments = vec![parser.or()?];
            while parser.eat(",") {
                arguments.push(parser.or()?);
            }
            Ok(arguments)
        })?;
        if !self.eat(")") {
            return Err(self.unexpected("`,` or `)`"));
        }
        if arguments.len() != function.takes() {
            return Err(ConditionError::Arguments { name, takes: function.takes() });
        }
        Ok(Expression::Call(function, arguments))
    }
}

/// What names of properties are made of.
fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

#[cfg(test)]
mod tests;
