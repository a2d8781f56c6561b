"""Arguments of the estimators as scikit-learn reads, sets and copies them."""

from __future__ import annotations

from typing import Any, Self

from crossent.scoring.parts import Kind


class Parameters:
    """The arguments of an estimator, in scikit-learn's interface."""

    def __init__(self, *, input: Kind = "logits", classes: Any = None) -> None:
        self.input: Kind = input
        self.classes = classes

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor.

        Parameters
        ----------
        deep
            There is nothing deeper.

        Returns
        -------
        dict
            `input` and `classes`.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> TemperatureScaling(input="probs").get_params()
        {'input': 'probs', 'classes': None}
        """
        return {"input": self.input, "classes": self.classes}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, and return the estimator.

        Parameters
        ----------
        params
            `input` and `classes`.

        Raises
        ------
        ValueError
            If an argument has another name.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> TemperatureScaling().set_params(input="probs")
        TemperatureScaling(input='probs')
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has 'input' and 'classes'")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = [f"input={self.input!r}"] if self.input != "logits" else []
        given += [f"classes={self.classes!r}"] if self.classes is not None else []
        return f"{type(self).__name__}({', '.join(given)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(one_d_array=True),
        )
