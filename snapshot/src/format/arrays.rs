//! The named arrays of one file; a failed lookup names the array, the file and the mismatch.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::array::{ANY, Array, shape_text};
use super::element::Element;
use crate::Error;

const MAX_NAME_BYTES: usize = 256;

/// Named arrays in order of name.
#[derive(Clone, Debug)]
pub struct Arrays {
    /// The source in messages.
    file: String,
    arrays: BTreeMap<String, Array>,
}

impl Default for Arrays {
    fn default() -> Self {
        Self {
            file: "a draft".to_owned(),
            arrays: BTreeMap::new(),
        }
    }
}

/// Compares names and arrays, not the source.
impl PartialEq for Arrays {
    fn eq(&self, other: &Self) -> bool {
        self.arrays == other.arrays
    }
}

impl Arrays {
    /// Makes an empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn from_file(file: String) -> Self {
        Self {
            file,
            arrays: BTreeMap::new(),
        }
    }

    /// Adds an array.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is taken, empty, longer than 256 bytes, reserved or has a control character;
    /// then nothing is added.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) -> Result<(), Error> {
        let name = name.into();
        if let Err(why) = check_name(&name) {
            return Err(Error::invalid(name, why));
        }
        if self.arrays.contains_key(&name) {
            return Err(Error::invalid(name, "there is an array of that name already"));
        }
        self.arrays.insert(name, array);
        Ok(())
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// True when there are no arrays.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// The arrays with their names, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The array called `name`, of any type and shape, if present.
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// [`Error::MissingArray`].
    pub fn array(&self, name: &str) -> Result<&Array, Error> {
        self.arrays.get(name).ok_or_else(|| self.missing(name))
    }

    /// The values of the array called `name`.
    ///
    /// # Shapes
    /// The array must have `shape`, where [`ANY`] stands for a dimension of any size.
    ///
    /// # Errors
    /// [`Error::MissingArray`], [`Error::WrongDtype`] or [`Error::WrongShape`].
    pub fn values<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [T]>, Error> {
        let values = self.check::<T>(name, shape)?.values();
        Ok(values.expect("the element type was checked"))
    }

    /// Removes the array called `name` and returns its values, without a copy unless they are shared.
    ///
    /// # Shapes
    /// As for [`Arrays::values`].
    ///
    /// # Errors
    /// As for [`Arrays::values`]; then the array stays.
    pub fn take<T: Element>(&mut self, name: &str, shape: &[usize]) -> Result<Vec<T>, Error> {
        self.check::<T>(name, shape)?;
        let array = self.arrays.remove(name).expect("the array was found");
        Ok(array.into_values().expect("the element type was checked"))
    }

    /// Removes the array called `name`, of any type and shape.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Array> {
        self.arrays.remove(name)
    }

    /// The one value of the array called `name`, of shape `[]`.
    ///
    /// # Errors
    /// As for [`Arrays::values`].
    pub fn scalar<T: Element>(&self, name: &str) -> Result<T, Error> {
        let values = self.values::<T>(name, &[])?;
        Ok(*values.first().expect("an array of shape [] has one value"))
    }

    /// Finds an array and checks its type and shape.
    fn check<T: Element>(&self, name: &str, shape: &[usize]) -> Result<&Array, Error> {
        let array = self.array(name)?;
        if array.dtype() != T::DTYPE {
            return Err(Error::WrongDtype {
                array: name.to_owned(),
                file: self.file.clone(),
                expected: T::DTYPE,
                found: array.dtype(),
            });
        }
        let fits = array.shape().len() == shape.len()
            && array
                .shape()
                .iter()
                .zip(shape)
                .all(|(found, expected)| *expected == ANY || found == expected);
        if fits {
            return Ok(array);
        }
        Err(Error::WrongShape {
            array: name.to_owned(),
            file: self.file.clone(),
            expected: shape_text(shape),
            found: shape_text(array.shape()),
        })
    }

    fn missing(&self, name: &str) -> Error {
        const N_SHOWN: usize = 12;
        let names: Vec<&str> = self.arrays.keys().take(N_SHOWN).map(String::as_str).collect();
        let mut known = names.join(", ");
        if self.arrays.is_empty() {
            known.push_str("no arrays");
        } else if self.arrays.len() > N_SHOWN {
            known.push_str(&format!(" and {} more", self.arrays.len() - N_SHOWN));
        }
        Error::MissingArray {
            array: name.to_owned(),
            file: self.file.clone(),
            known,
        }
    }
}

/// Checks an array's name; returns what is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("its name is empty")
    } else if name.len() > MAX_NAME_BYTES {
        Err("its name is longer than 256 bytes")
    } else if name == "__metadata__" {
        Err("safetensors reserves that name")
    } else if name.chars().any(char::is_control) {
        Err("its name has a control character")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays() -> Arrays {
        let mut arrays = Arrays::from_file("rows.safetensors".to_owned());
        arrays
            .insert(
                "rows",
                Array::new(&[2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            )
            .unwrap();
        arrays.insert("seq", Array::scalar(9u64)).unwrap();
        arrays
    }

    #[test]
    fn a_getter_names_the_array_the_file_and_what_did_not_fit() {
        let arrays = arrays();
        let check = |result: Result<Cow<'_, [f32]>, Error>, message: &str| {
            assert_eq!(result.unwrap_err().to_string(), message);
        };
        check(
            arrays.values("bias", &[3]),
            "array `bias` is missing from rows.safetensors, which has: rows, seq",
        );
        check(
            arrays.values("seq", &[]),
            "array `seq` of rows.safetensors holds u64, expected f32",
        );
        check(
            arrays.values("rows", &[ANY, 4]),
            "array `rows` of rows.safetensors has shape [2, 3], expected [*, 4]",
        );
        check(
            arrays.values("rows", &[6]),
            "array `rows` of rows.safetensors has shape [2, 3], expected [6]",
        );
        assert_eq!(arrays.values::<f32>("rows", &[ANY, 3]).unwrap().len(), 6);
        assert_eq!(arrays.scalar::<u64>("seq").unwrap(), 9);
    }

    #[test]
    fn a_failed_take_leaves_the_array() {
        let mut arrays = arrays();
        assert!(arrays.take::<f32>("rows", &[3, 2]).is_err());
        assert!(arrays.take::<u8>("rows", &[2, 3]).is_err());
        assert_eq!(
            arrays.take::<f32>("rows", &[2, 3]).unwrap(),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        );
        assert!(arrays.take::<f32>("rows", &[2, 3]).is_err());
    }

    #[test]
    fn bad_names_are_refused() {
        let mut arrays = arrays();
        for name in ["", "rows", "__metadata__", "a\nb", &"x".repeat(257)] {
            assert!(arrays.insert(name, Array::scalar(1u8)).is_err(), "{name}");
        }
        assert_eq!(arrays.len(), 2);
    }
}
