"""Chat templates that behave as each model family's own does, in as few words as show the behaviour.

What differs between families, and matters to whoever looks for the tokens after the user's text: what follows that text
(a special token, plain words, a bare newline), whether it is trimmed, where a system message goes (its own turn, folded
into a user turn, refused), whether one is added unasked, and what a thinking model's reply begins with.
"""

_GENERATION_PROMPT = r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_CHATML_TURNS = (
    r"{% for message in messages %}"
    r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    r"{% endfor %}"
)

CHATML = _CHATML_TURNS + _GENERATION_PROMPT

CHATML_WITH_DEFAULT_SYSTEM = (
    r"{% if messages[0]['role'] != 'system' %}"
    r"{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    r"{% endif %}"
) + CHATML

# Earlier thoughts are dropped from the history, and thinking switched off is an empty thought in the prompt.
CHATML_THINKING = (
    r"{% for message in messages %}"
    r"{% set content = message['content'] %}"
    r"{% if message['role'] == 'assistant' %}"
    r"{% set content = content.split('</think>')[-1].lstrip('\n') %}"
    r"{% endif %}"
    r"{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}"
    r"{% endfor %}"
) + (
    r"{% if add_generation_prompt %}"
    r"{{ '<|im_start|>assistant\n' }}"
    r"{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    r"{% endif %}"
)

# The mode is also written into a system turn that is always there, so the switch moves the prompt's beginning too.
SMOLLM3 = (
    r"{% set thinking = enable_thinking if enable_thinking is defined else true %}"
    r"{% set has_system = messages[0]['role'] == 'system' %}"
    r"{{ '<|im_start|>system\n## Mode: ' + ('/think' if thinking else '/no_think') + '\n\n' }}"
    r"{{ (messages[0]['content'] if has_system else 'Help the person.') + '\n\n<|im_end|>\n' }}"
    r"{% for message in (messages[1:] if has_system else messages) %}"
    r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}"
    r"{{ '<|im_start|>assistant\n' + ('' if thinking else '<think>\n\n</think>\n') }}"
    r"{% endif %}"
)

_SPLIT_SYSTEM = (
    r"{% if messages[0]['role'] == 'system' %}"
    r"{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    r"{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)
_MUST_ALTERNATE = (
    r"{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    r"{{ raise_exception('Roles must alternate: user, assistant, user, and so on.') }}"
    r"{% endif %}"
)

LLAMA_2 = (
    _SPLIT_SYSTEM + r"{% for message in turns %}" + _MUST_ALTERNATE + r"{% if message['role'] == 'user' %}"
    r"{% set framed = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first and system else '' %}"
    r"{{ bos_token + '[INST] ' + framed + message['content'].strip() + ' [/INST]' }}"
    r"{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}"
    r"{% endfor %}"
)

LLAMA_3 = (
    _SPLIT_SYSTEM
    + r"{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nCutoff: December 2023\n\n' }}"
    + r"{{ system.strip() + '<|eot_id|>' }}"
    + r"{% for message in turns %}"
    + r"{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    + r"{{ message['content'].strip() + '<|eot_id|>' }}"
    + r"{% endfor %}"
    + r"{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The system message goes into the last user turn, so it moves when the conversation goes on.
MISTRAL = (
    _SPLIT_SYSTEM
    + r"{{ bos_token }}"
    + r"{% for message in turns %}"
    + _MUST_ALTERNATE
    + r"{% if message['role'] == 'user' %}"
    r"{{ '[INST] ' + (system + '\n\n' if loop.last and system else '') + message['content'] + '[/INST]' }}"
    r"{% else %}{{ ' ' + message['content'].strip() + eos_token }}{% endif %}"
    r"{% endfor %}"
)

# A system message breaks the alternation, so it is refused.
MIXTRAL = (
    r"{{ bos_token }}"
    r"{% for message in messages %}"
    + _MUST_ALTERNATE
    + r"{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    r"{% else %}{{ message['content'] + eos_token }}{% endif %}"
    r"{% endfor %}"
)

_GEMMA_TURNS = (
    _MUST_ALTERNATE + r"{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    r"{% set framed = system + '\n\n' if loop.first and system else '' %}"
    r"{{ '<start_of_turn>' + role + '\n' + framed + message['content'].strip() + '<end_of_turn>\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

GEMMA = (
    r"{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    r"{{ bos_token }}{% set system = '' %}{% for message in messages %}"
) + _GEMMA_TURNS

GEMMA_3 = _SPLIT_SYSTEM + r"{{ bos_token }}{% for message in turns %}" + _GEMMA_TURNS

PHI_3 = (
    r"{% for message in messages %}"
    r"{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

# The role markers are plain text here, and the user's text is followed by a bare newline.
OLMO_2 = (
    r"{{ bos_token }}"
    r"{% for message in messages %}"
    r"{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    r"{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

COHERE = (
    r"{{ bos_token }}"
    r"{% set names = {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'} %}"
    r"{% for message in messages %}"
    r"{{ '<|START_OF_TURN_TOKEN|>' + names[message['role']] + message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)

# Nothing closes the user's turn: a single token stands between the question and the reply.
GPT_NEOX = (
    r"{% for message in messages %}{{ '<|' + message['role'].upper() + '|>' + message['content'] }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|ASSISTANT|>' }}{% endif %}"
)

# Two newlines after the user's text, which the tokenizer merges with a full stop or a question mark before them.
PLAIN_HEADINGS = (
    r"{% for message in messages %}"
    r"{{ '### ' + message['role'].capitalize() + ':\n' + message['content'] + '\n\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
