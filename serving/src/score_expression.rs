//! The setting `serving.score`: one score from the probabilities of several tasks.
//!
//! A small arithmetic expression over task names, such as `click + 5 * order - 2 * dislike`. It is parsed once, against
//! the names of the tasks, and computed in `f64` for each candidate.
//!
//! ```text
//! sum     = product (("+" | "-") product)*
//! product = unary (("*" | "/") unary)*
//! unary   = "-" unary | atom
//! atom    = number | task | "`" task "`" | "(" sum ")" | function "(" sum ("," sum)* ")"
//! ```

mod parser;

use ouzel_sample::settings::KeyError;
use thiserror::Error;

/// Longest expression, bytes.
const MAX_BYTES: usize = 1024;
/// Deepest nesting of parentheses, functions and signs; bounds the recursion of parser and evaluation.
const MAX_DEPTH: usize = 32;

/// A score expression whose names are resolved to tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreExpression {
    root: Node,
    tasks: Vec<String>,
}

/// Why an expression cannot be used, with the column of the fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: {message}")]
pub struct ScoreError {
    /// Column of the fault, in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// The unknown task, if that is the fault.
    unknown: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Task(usize),
    Negated(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Min,
    Max,
    Log,
    Exp,
    Pow,
}

impl Function {
    /// The function of a name, with its least and largest number of arguments.
    fn named(name: &str) -> Option<(Self, usize, usize)> {
        Some(match name {
            "min" => (Function::Min, 2, usize::MAX),
            "max" => (Function::Max, 2, usize::MAX),
            "log" => (Function::Log, 1, 1),
            "exp" => (Function::Exp, 1, 1),
            "pow" => (Function::Pow, 2, 2),
            _ => return None,
        })
    }
}

impl ScoreExpression {
    /// Parses an expression over the names of `tasks`; the empty one is the first task.
    ///
    /// # Errors
    /// A fault of syntax, an unknown task, a constant part that is not a finite number, or no task at all.
    pub fn parse(text: &str, tasks: &[String]) -> Result<Self, ScoreError> {
        let tasks = tasks.to_vec();
        if text.trim().is_empty() {
            return Ok(Self {
                root: Node::Task(0),
                tasks,
            });
        }
        let root = parser::parse(text, &tasks)?;
        Ok(Self { root, tasks })
    }

    /// The names of the tasks that it was parsed against.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// The score of one candidate from the probabilities of its tasks, `[n_tasks]`. It may be infinite or NaN.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a score beyond f32 becomes infinite, which callers check"
    )]
    pub fn score(&self, probabilities: &[f32]) -> f32 {
        self.root.value(probabilities) as f32
    }
}

impl ScoreError {
    /// The error of the setting `key`.
    pub fn of_key(self, key: &str, tasks: &[String]) -> KeyError {
        KeyError {
            unknown: self.unknown.clone().map(|name| (name, tasks.to_vec())),
            ..KeyError::new(key, format!("is no usable expression, {self}"))
        }
    }
}

impl Node {
    fn value(&self, probabilities: &[f32]) -> f64 {
        match self {
            Node::Number(number) => *number,
            Node::Task(task) => probabilities.get(*task).copied().map_or(f64::NAN, f64::from),
            Node::Negated(node) => -node.value(probabilities),
            Node::Binary(operator, left, right) => {
                let (left, right) = (left.value(probabilities), right.value(probabilities));
                match operator {
                    Operator::Add => left + right,
                    Operator::Subtract => left - right,
                    Operator::Multiply => left * right,
                    Operator::Divide => left / right,
                }
            }
            Node::Call(function, arguments) => {
                let mut values = arguments.iter().map(|argument| argument.value(probabilities));
                let first = values.next().unwrap_or(f64::NAN);
                match function {
                    // `f64::min` would ignore a NaN.
                    Function::Min => values.fold(first, |a, b| if b < a || b.is_nan() { b } else { a }),
                    Function::Max => values.fold(first, |a, b| if b > a || b.is_nan() { b } else { a }),
                    Function::Log => first.ln(),
                    Function::Exp => first.exp(),
                    Function::Pow => first.powf(values.next().unwrap_or(f64::NAN)),
                }
            }
        }
    }

    /// The value of a node that reads no task.
    fn constant(&self) -> Option<f64> {
        let is_constant = match self {
            Node::Number(_) => true,
            Node::Task(_) => false,
            Node::Negated(node) => node.constant().is_some(),
            Node::Binary(_, left, right) => left.constant().is_some() && right.constant().is_some(),
            Node::Call(_, arguments) => arguments.iter().all(|argument| argument.constant().is_some()),
        };
        is_constant.then(|| self.value(&[]))
    }
}

#[cfg(test)]
mod tests;
