"""Networks that hypernas did not build: classics and ordinary project code in plain torch, families of transformers.

The tracer is tested and measured on them. ``tables`` has small ones in plain torch by name, ``hub`` those of the
package transformers, which is loaded when the first of them is built. The files of networks need torch alone.
"""
