# The Python base from a registry's image, for machines where Debian's packages are no option.
# scripts/python-base.sh uses it when HYPERFAAS_PYTHON_IMAGE names an image, such as python:3-slim.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN pip install --no-cache-dir "flask>=2.2,<4" "waitress>=2.1,<4"
