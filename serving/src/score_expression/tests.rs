//! Values and faults of score expressions.

use proptest::prelude::*;

use super::*;

fn tasks() -> Vec<String> {
    ["click", "order", "dislike", "add to cart", "log"]
        .map(str::to_owned)
        .to_vec()
}

const PROBABILITIES: [f32; 5] = [0.5, 0.25, 0.125, 0.0625, 0.03125];

#[track_caller]
fn check(text: &str, expected: f32) {
    let parsed = ScoreExpression::parse(text, &tasks()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let found = parsed.score(&PROBABILITIES);
    assert!(
        (found - expected).abs() < 1e-6,
        "{text} is {found}, not {expected}"
    );
}

#[test]
fn expressions_have_the_usual_precedence_and_associativity() {
    check("", 0.5);
    check("  ", 0.5);
    check("order", 0.25);
    check("click + 5 * order - 2 * dislike", 1.5);
    check("click - order - dislike", 0.125);
    check("click / order / dislike", 16.0);
    check("-click * -2", 1.0);
    check("--click", 0.5);
    check("2 * (click + order)", 1.5);
    check("1 - click", 0.5);
    check(".5 * click + 1e-3 + 2E+1", 20.251);
    check("`add to cart` * 16", 1.0);
    check("min(click, order, dislike) + max(click, 1)", 1.125);
    check("log(exp(click))", 0.5);
    check("pow(click, 2) * 4", 1.0);
    check("log + log(1 + 0 * click)", 0.03125);
}

#[test]
fn a_fault_names_its_column() {
    let deep = format!("{}click{}", "(".repeat(40), ")".repeat(40));
    let long = format!("click + {}", "1 + ".repeat(300));
    let cases = [
        (
            "click + ordr",
            9,
            "there is no task `ordr`, join.tasks has click, order",
        ),
        ("`add to card`", 1, "there is no task `add to card`"),
        ("click +", 8, "expected a task or a number, found the end"),
        ("click + * 2", 9, "found '*'"),
        ("click order", 7, "expected an operator or the end, found 'o'"),
        (
            "(click + 2",
            11,
            "expected ')' for the '(' of column 1, found the end",
        ),
        ("click)", 6, "expected an operator or the end"),
        ("click / (1 - 1)", 9, "divides by zero"),
        ("click / -0", 9, "divides by zero"),
        ("click + log(0)", 9, "not a finite number"),
        ("click * exp(1000)", 9, "not a finite number"),
        ("click + pow(-1, 0.5)", 9, "not a finite number"),
        ("1e999 * click", 1, "is not a number"),
        ("1.2.3 * click", 1, "is not a number"),
        ("2x", 1, "is not a number"),
        ("sqrt(click)", 1, "there is no function \"sqrt\""),
        ("log(click, 2)", 1, "log takes 1 arguments, not 2"),
        ("max(click)", 1, "max takes at least 2 arguments, not 1"),
        ("`click", 1, "this backtick is never closed"),
        ("1 + 2", 1, "names no task"),
        ("größe + click", 1, "there is no task `größe`"),
        ("click + 'a'", 9, "expected a task or a number"),
        (&deep, 33, "is nested deeper than 32"),
        (&long, 1, "at most 1024 are allowed"),
    ];
    for (text, column, message) in cases {
        let error = ScoreExpression::parse(text, &tasks()).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
    }
}

#[test]
fn an_unknown_task_is_reported_with_the_names_that_exist() {
    let error = ScoreExpression::parse("clik", &tasks()).unwrap_err();
    let error = error.of_key("serving.score", &tasks());
    assert_eq!(error.unknown, Some(("clik".to_owned(), tasks())));
    assert_eq!(error.key, "serving.score");
}

#[test]
fn a_value_that_is_not_finite_is_returned_as_it_is() {
    let check = |text: &str, is: fn(f32) -> bool| {
        let value = ScoreExpression::parse(text, &tasks())
            .unwrap()
            .score(&[0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(is(value), "{text}: {value}");
    };
    check("click / order", f32::is_nan);
    check("log(click)", |value| value == f32::NEG_INFINITY);
    check("min(click / order, click)", f32::is_nan);
    check("max(click, click / order)", f32::is_nan);
    check("exp(100 + click)", |value| value == f32::INFINITY);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z0-9+*/(),.` é-]{0,40}") {
        if let Ok(expression) = ScoreExpression::parse(&text, &tasks()) {
            expression.score(&PROBABILITIES);
        }
    }
}
