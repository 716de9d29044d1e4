//! The parser of score expressions: a recursive descent that knows the column of every fault.

use super::{Function, MAX_BYTES, MAX_DEPTH, Node, Operator, ScoreError};

/// Parses a text that is not empty.
pub(super) fn parse(text: &str, tasks: &[String]) -> Result<Node, ScoreError> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
        tasks,
    };
    if text.len() > MAX_BYTES {
        let message = format!("has {} bytes, at most {MAX_BYTES} are allowed", text.len());
        return Err(parser.error(0, message));
    }
    let root = parser.sum()?;
    if let Some(found) = parser.peek() {
        let message = format!("expected an operator or the end, found {found:?}");
        return Err(parser.error(parser.at, message));
    }
    if root.constant().is_some() {
        return Err(parser.error(0, "names no task, so every item would have the same score"));
    }
    Ok(root)
}

/// The text with the place that is read next.
struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    depth: usize,
    tasks: &'a [String],
}

impl Parser<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> ScoreError {
        ScoreError {
            column: self.text[..at].chars().count() + 1,
            message: message.into(),
            unknown: None,
        }
    }

    /// The next character after spaces.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    /// Skips the next character if it is `wanted`.
    fn take(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.at += wanted.len_utf8();
        }
        is_next
    }

    fn sum(&mut self) -> Result<Node, ScoreError> {
        let start = self.at;
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                Some('+') => Operator::Add,
                Some('-') => Operator::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = self.finite(start, Node::Binary(operator, left.into(), right.into()))?;
        }
    }

    fn product(&mut self) -> Result<Node, ScoreError> {
        let start = self.at;
        let mut left = self.unary()?;
        loop {
            let operator = match self.peek() {
                Some('*') => Operator::Multiply,
                Some('/') => Operator::Divide,
                _ => return Ok(left),
            };
            self.at += 1;
            self.peek();
            let divisor = self.at;
            let right = self.unary()?;
            if operator == Operator::Divide && right.constant().is_some_and(|value| value.abs() == 0.0) {
                return Err(self.error(divisor, "divides by zero"));
            }
            left = self.finite(start, Node::Binary(operator, left.into(), right.into()))?;
        }
    }

    fn unary(&mut self) -> Result<Node, ScoreError> {
        self.peek();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(self.at, format!("is nested deeper than {MAX_DEPTH}")));
        }
        let node = if self.take('-') {
            Node::Negated(self.unary()?.into())
        } else {
            self.atom()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn atom(&mut self) -> Result<Node, ScoreError> {
        let next = self.peek();
        let start = self.at;
        match next {
            Some('(') => {
                self.at += 1;
                let inner = self.sum()?;
                self.close(start)?;
                Ok(inner)
            }
            Some('`') => {
                let rest = &self.text[start + 1..];
                let end = rest
                    .find('`')
                    .ok_or_else(|| self.error(start, "this backtick is never closed"))?;
                self.at = start + end + 2;
                self.task(start, &rest[..end])
            }
            Some(first) if first.is_ascii_digit() || first == '.' => self.number(),
            Some(first) if first.is_alphabetic() || first == '_' => {
                let rest = &self.text[start..];
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                let name = &rest[..end.unwrap_or(rest.len())];
                self.at = start + name.len();
                if self.peek() == Some('(') {
                    self.call(start, name)
                } else {
                    self.task(start, name)
                }
            }
            Some(found) => Err(self.error(start, format!("expected a task or a number, found {found:?}"))),
            None => Err(self.error(start, "expected a task or a number, found the end")),
        }
    }

    fn close(&mut self, opened: usize) -> Result<(), ScoreError> {
        if self.take(')') {
            return Ok(());
        }
        let found = self
            .peek()
            .map_or_else(|| "the end".to_owned(), |found| format!("{found:?}"));
        let opened = self.error(opened, "").column;
        Err(self.error(
            self.at,
            format!("expected ')' for the '(' of column {opened}, found {found}"),
        ))
    }

    fn number(&mut self) -> Result<Node, ScoreError> {
        let start = self.at;
        let rest = &self.text[start..];
        let mut previous = ' ';
        let end = rest.find(|c: char| {
            let is_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
            previous = c;
            !(is_sign || c.is_ascii_alphanumeric() || c == '.')
        });
        let text = &rest[..end.unwrap_or(rest.len())];
        self.at = start + text.len();
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Node::Number(number)),
            _ => Err(self.error(start, format!("{text:?} is not a number"))),
        }
    }

    fn task(&self, start: usize, name: &str) -> Result<Node, ScoreError> {
        let task = self.tasks.iter().position(|task| task == name);
        task.map(Node::Task).ok_or_else(|| ScoreError {
            unknown: Some(name.to_owned()),
            ..self.error(
                start,
                format!(
                    "there is no task `{name}`, join.tasks has {}",
                    self.tasks.join(", ")
                ),
            )
        })
    }

    fn call(&mut self, start: usize, name: &str) -> Result<Node, ScoreError> {
        let (function, least, most) = Function::named(name).ok_or_else(|| {
            let message = format!("there is no function {name:?}, but min, max, log, exp and pow");
            self.error(start, message)
        })?;
        let opened = self.at;
        self.at += 1;
        let mut arguments = vec![self.sum()?];
        while self.take(',') {
            arguments.push(self.sum()?);
        }
        self.close(opened)?;
        if !(least..=most).contains(&arguments.len()) {
            let wanted = if least == most {
                least.to_string()
            } else {
                format!("at least {least}")
            };
            let message = format!("{name} takes {wanted} arguments, not {}", arguments.len());
            return Err(self.error(start, message));
        }
        self.finite(start, Node::Call(function, arguments))
    }

    /// Refuses a constant that is not a finite number: it would spoil every score.
    fn finite(&self, start: usize, node: Node) -> Result<Node, ScoreError> {
        match node.constant() {
            Some(value) if !value.is_finite() => {
                let at = start + self.text[start..].len() - self.text[start..].trim_start().len();
                Err(self.error(at, "this constant is not a finite number"))
            }
            _ => Ok(node),
        }
    }
}
