"""A call of a loss: arguments in, results out.

Here the arguments of a public function are checked and become one record, and rows become the reduced loss and
`Stats`. DTensors become this rank's call here too. It imports `base` and `ranks`; the operators and the public face
import it.
"""
