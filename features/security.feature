Feature: What may be read
  A path leads to a regular file under a root that may be read, or nowhere.

  @VR-IN-03
  Scenario: A file outside the roots is refused
    Given files may be read under "models" only
    And a file "weights.bin" of 5000 bytes
    When I seal "weights.bin"
    Then it is refused with SOURCE_REFUSED
    And nothing is listed

  @VR-IN-03
  Scenario: A folder that is no model is refused
    When I seal "."
    Then it is refused with SOURCE_NOT_FOUND

  @VR-IN-03
  Scenario: A file that is not there is told so
    When I seal "nothing.bin"
    Then it is refused with SOURCE_NOT_FOUND

  @VR-IN-02
  Scenario: A safetensors file that lies about its header is refused
    Given a model "llama.safetensors" of 1 MiB
    And byte 0 of the file "llama.safetensors" is 255
    When I seal "llama.safetensors"
    Then it is refused with MODEL_MALFORMED
    And all of the memory is free again
